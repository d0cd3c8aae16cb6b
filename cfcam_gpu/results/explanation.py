"""Explanation: the maps of a batch, and what one does with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.axes import INPUTS, last_axes
from ..core.config import Config
from ..engines import dlpack
from ..hooks.target_layer import TargetLayer
from ..targets.request import Score
from . import overlays as render
from . import saving

if TYPE_CHECKING:
    from .components import Component


class Origin(NamedTuple):
    """What it takes, beside the result, to look at the same images again: the model, and the callables explained."""

    model: nn.Module
    scores: tuple[Score | tuple[Score, ...], ...] | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """Class activation maps of a batch of B images, on the device of the images.

    With several targets a call, ``target=(B, T)``, every shape but that of `logits` has a T after the B. Of volumes
    (B, C, D, H, W), read (D, H, W) and (d, h, w) for (H, W) and (h, w); of signals (B, C, T), (T,) and (t,).

    Parameters
    ----------
    raw_maps : (B, h, w) float32 tensor
        Evidence for the target at the target layer's resolution, >= 0, not normalised.
    target : (B,) int64 tensor or None
        The explained classes; None where callables were given.
    logits : (B, K) tensor, or None
        The model's output, in its dtype; None where it has no logits and callables were given.
    labels : (B, C) int64 tensor or None
        Of each channel: >= 0 its cluster, -1 noise, -2 dominant, -3 dead. These three are None where the method is not
        CF-CAM, and where several looks were averaged or fused.
    weights : (B, C) float32 tensor or None
        The channels' weights; 0 for noise and dead channels. With ``combine="elementwise"`` their spatial means.
    eps : (B,) float64 tensor or None
        DBSCAN's radius, in units of the clustered points.
    layers : tuple of TargetLayer
        Where, and why there; of two, the finer one first: `raw_maps`, `labels` and `weights` are at its resolution and
        of its channels. In pickles and copies each is without its module.
    config : Config or None
        What was computed; None where the method is not CF-CAM.
    size : tuple of int
        H and W of the images: the length of each spatial axis.
    origin : Origin or None
        For :meth:`components`; holds no activations and no images. Pickles and copies go without.
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`; ``"cfcam"`` in any configuration from a :class:`~cfcam_gpu.CFCAM`.
    """

    raw_maps: torch.Tensor
    target: torch.Tensor | None
    logits: torch.Tensor | None
    labels: torch.Tensor | None
    weights: torch.Tensor | None
    eps: torch.Tensor | None
    layers: tuple[TargetLayer, ...]
    config: Config | None
    size: tuple[int, ...]
    origin: Origin | None = field(default=None, repr=False)
    method: str = "cfcam"

    @cached_property
    def maps(self) -> torch.Tensor:
        """(B, H, W) float32 in [0, 1] at the images' size; higher is more evidence for the target."""
        saturation = None if self.config is None else self.config.saturation
        return render.upsample(self.raw_maps, self.size, saturation=saturation)

    @cached_property
    def empty(self) -> torch.Tensor:
        """(B,) bool: no position speaks for the target, so the map is all zeros."""
        return self.raw_maps.amax(dim=last_axes(len(self.size))) <= 0

    @property
    def several(self) -> bool:
        """Whether there is a T axis: several targets of each image."""
        return self.raw_maps.ndim == len(self.size) + 2

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: all but the model, and the layers' modules, whose weights would go along."""
        return vars(self) | {"origin": None, "layers": tuple(replace(layer, module=None) for layer in self.layers)}

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.raw_maps)

    def __repr__(self) -> str:
        """What and where, in one line; values would fill the screen, and wait for the device."""
        raw = tuple(self.raw_maps.shape)
        maps = raw[: len(raw) - len(self.size)] + tuple(self.size)
        layers = ", ".join(layer.name for layer in self.layers)
        return f"<Explanation by {self.method} at {layers}: maps {maps} of {raw}, on {self.raw_maps.device}>"

    def overlay(self, images: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
        """The maps in colour over their images, (B, H, W, 3) uint8. See :func:`cfcam_gpu.results.overlays.overlay`.

        Of volumes a picture for each slice, (B, D, H, W, 3); of signals a drawing of each.
        """
        if isinstance(images, torch.Tensor) and images.ndim != len(self.size) + 2:
            raise ValueError(
                f"images: expected {INPUTS[len(self.size)]}, as those explained; got {tuple(images.shape)}"
            )
        return render.overlay(self.maps, images, alpha=alpha, colormap=colormap)

    def components(self, images: torch.Tensor, top: int = 4) -> list[list[Component]]:
        """Which groups of channels carry the evidence, and where each sees it, strongest first, for each image.

        `images` are those explained; they go through the model once more. See
        :func:`cfcam_gpu.results.components.decompose`.
        """
        from . import components  # SciPy and scikit-learn, which not everyone who holds an explanation has loaded

        return components.decompose(self, images, top)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        images: torch.Tensor | None = None,
        names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write maps, overlays and a file of JSON lines to a folder. See :func:`cfcam_gpu.results.saving.save`."""
        return saving.save(self, folder, images=images, names=names, class_names=class_names, overwrite=overwrite)

    def numpy(self) -> NDArray[np.float32]:
        """The maps as a NumPy array on the host."""
        return self.maps.cpu().numpy()

    def cupy(self) -> Any:
        """The maps as a CuPy array on the same memory."""
        return dlpack.to_cupy(self.maps)

    def __dlpack__(self, **options: Any) -> Any:
        """The maps as a DLPack capsule: ``torch.from_dlpack(explanation)``, ``cupy.from_dlpack(explanation)``."""
        return self.maps.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Where the maps are, for DLPack."""
        return self.maps.__dlpack_device__()
