"""The CAMs that CF-CAM is measured against, on the same captured activations and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import nn

from .. import layers, targets
from ..capture import capture
from ..chunking import DEFAULT_MEMORY, Progress
from ..guard import check_model
from ..layers import TargetLayer
from ..render import upsample
from . import forwards, gradient

__all__ = ["METHODS", "FromGradients", "FromModel", "Maps", "Method", "explain"]


class FromGradients(Protocol):
    """Raw maps (B, T, h, w) from activations (B, C, h, w) and gradients (B, T, C, h, w)."""

    def __call__(self, activations: torch.Tensor, gradients: torch.Tensor, /) -> torch.Tensor:
        """Compute the maps."""
        ...


class FromModel(Protocol):
    """Raw maps (B, T, h, w) from the model, its target layer, images and what to explain of them."""

    def __call__(
        self,
        model: nn.Module,
        layer: TargetLayer,
        images: torch.Tensor,
        request: targets.Request,
        /,
        *,
        memory: int,
        progress: Progress | None,
    ) -> torch.Tensor:
        """Compute the maps."""
        ...


@dataclass(frozen=True)
class Method:
    """A CAM method: its name in print, and the function that computes it.

    Exactly one function is set. A method with `from_gradients` can be given gradients that are not the model's own, to
    measure how it bears noise in them.
    """

    title: str
    from_gradients: FromGradients | None = None
    from_model: FromModel | None = None


#: Every method by the name that `explain` takes.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gradcam": Method("Grad-CAM", gradient.gradcam),
        "gradcam++": Method("Grad-CAM++", gradient.gradcam_plusplus),
        "hirescam": Method("HiResCAM", gradient.hirescam),
        "xgradcam": Method("XGrad-CAM", gradient.xgradcam),
        "layercam": Method("LayerCAM", gradient.layercam),
        "eigencam": Method("Eigen-CAM", gradient.eigencam),
        "scorecam": Method("Score-CAM", from_model=forwards.scorecam),
        "ablationcam": Method("Ablation-CAM", from_model=forwards.ablationcam),
        "smoothgradcam++": Method(
            "Smooth Grad-CAM++",
            # Each of its forwards has the caller's own batch: there is nothing to cut into chunks.
            from_model=lambda *given, memory, progress: forwards.smoothgradcam_plusplus(*given, progress=progress),
        ),
    }
)


class Maps(NamedTuple):
    """``raw_maps`` (B, h, w) float32, >= 0, not normalised; ``maps`` (B, H, W) float32 in [0, 1] at the images' size.

    With a target (B, T) both have a T after the B.
    """

    raw_maps: torch.Tensor
    maps: torch.Tensor


def explain(
    model: nn.Module,
    target_layer: nn.Module | str | TargetLayer | None,
    images: torch.Tensor,
    target: targets.Target = None,
    method: str = "gradcam",
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Maps:
    """Maps of a batch by one of `METHODS`.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it is; nothing of it is changed.
    target_layer : torch.nn.Module, str, TargetLayer or None
        As for :class:`cfcam_gpu.CFCAM`, or a layer found before; None chooses the last activation with a spatial
        extent.
    images : (B, 3, H, W) floating tensor
        Prepared as the model wants them, on its device.
    target : None, int, sequence, tensor or callable
        As for :class:`cfcam_gpu.CFCAM`.
    method : str
        A key of `METHODS`.
    memory : int
        Bytes that the activations of one chunk of forwards may take, in methods that run many.
    progress : callable, optional
        Called with (done, total) in methods that run many forwards.

    Returns
    -------
    Maps

    Raises
    ------
    TypeError, ValueError
        If there is no such method, the images, layer or target are refused, or a map is NaN or infinite.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    model = check_model(model)
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.is_floating_point() or not len(images):
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images: expected a floating tensor (B, 3, H, W) that is not empty; got {got}")
    request = targets.read(target, len(images))
    if target_layer is None:
        layer = layers.choose(model, images)
    else:
        layer = target_layer if isinstance(target_layer, TargetLayer) else layers.find(model, target_layer)
    chosen = METHODS[method]
    if chosen.from_gradients is not None:
        captured = capture(model, layer, images, request)
        raw_maps = chosen.from_gradients(captured.activations, captured.gradients)
    else:
        assert chosen.from_model is not None
        raw_maps = chosen.from_model(model, layer, images, request, memory=memory, progress=progress)
    bad = ~torch.isfinite(raw_maps).flatten(1).all(dim=1)
    if bool(bad.any()):
        named = ", ".join(str(b) for b in bad.nonzero().flatten().tolist()[:10])
        raise ValueError(f"{method}: the map of image {named} is not finite: NaN or infinity in images or activations")
    if not request.several:
        raw_maps = raw_maps[:, 0]
    return Maps(raw_maps, upsample(raw_maps, (images.shape[-2], images.shape[-1])))
