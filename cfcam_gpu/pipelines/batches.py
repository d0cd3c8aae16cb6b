"""A batch explained whatever is in it: one bad image costs no other its map, nor a bit of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from ..core import axes
from ..core.finite import NotFiniteError
from ..deploy.loading import Deployed
from ..explain.attempts import FAILURES, OUT_OF_MEMORY, attempt, reason
from ..explain.cam import CAM
from ..explain.cfcam import CFCAM
from ..hooks.guard import guarded
from ..results.explanation import Explanation
from ..targets.request import Request, logits_for
from .explainers import Explainer, is_labelled
from .found import Found, joined, measured

_log = logging.getLogger(__name__)

#: Makes the model's input of images as they come.
Prepare: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
#: A class of each image, None for the predicted one, or T classes of each.
Targets: TypeAlias = Sequence[int | None] | Sequence[Sequence[int]]


class BatchExplainer:
    """Explains batches for :func:`cfcam_gpu.pipelines.run`, and for whoever has a loop of their own.

    Parameters
    ----------
    explainer : CFCAM, CAM or Deployed
    prepare : callable, optional
        Makes the model's input (B, C, H, W) of what :meth:`__call__` gets, on the device.
        :meth:`cfcam_gpu.photographs.Preparation.normalize`, say.
    dtype : torch.dtype
        Of the maps that are returned.
    overlay : bool
        Draw the overlays, too: of images.
    components : int, optional
        How many groups of channels to name of each image, as ``explanation.components`` does. The images go through the
        model once more.
    size : sequence of int, optional
        Of the maps, for a batch of which every image fails: with a `prepare` that changes the images' size it isn't
        theirs. Default: that of the maps before, or of the images.

    Raises
    ------
    TypeError, ValueError
        If `components` is no int of at least 1, or `explainer` doesn't know the groups: only one look by CF-CAM does.

    Notes
    -----
    Where the device's memory does not hold a batch, it is halved until it does, here and for later batches (``limit``).
    """

    def __init__(
        self,
        explainer: Explainer,
        *,
        prepare: Prepare | None = None,
        dtype: torch.dtype = torch.float16,
        overlay: bool = False,
        components: int | None = None,
        size: Sequence[int] | None = None,
    ) -> None:
        self._labelled = is_labelled(explainer)
        if components is not None:
            if isinstance(components, bool) or not isinstance(components, int):
                raise TypeError(f"components: expected an int; got {type(components).__name__}")
            if components < 1:
                raise ValueError(f"components: expected at least 1; got {components}")
            if not self._labelled:
                raise ValueError(
                    "components: only one look by the method cfcam has them, without augment, smooth and fuse"
                )
        self.explainer = explainer
        self.prepare = prepare
        self.dtype = dtype
        self.overlay = overlay
        self.components = components
        self.size = None if size is None else tuple(size)
        self.limit: int | None = None

    def __call__(
        self,
        images: torch.Tensor,
        targets: Targets | None = None,
        errors: Sequence[str | None] | None = None,
    ) -> Found:
        """Explain a batch.

        An image that fails gets an error, and a good one of the batch takes its place: the others' maps are those of a
        batch of this size, whatever happened beside them.

        Parameters
        ----------
        images : (B, C, H, W) tensor on the model's device
            Volumes are (B, C, D, H, W), signals (B, C, L).
        targets : sequence of B int or None, or of B sequences of T int, optional
            A class each, None the predicted class; or T classes each, by one forward: an image fails if one of its
            classes does.
        errors : sequence of B str or None, optional
            Of images that are known to be bad already, whatever stands in their place.

        Raises
        ------
        RuntimeError
            If the device's memory does not hold a single image, or the device is out of order.
        ValueError
            If there are several classes of each image, and `components` were asked for.
        """
        count = len(images)
        wanted: list[Any] = [None] * count if targets is None else list(targets)
        if self.components is not None and _classes(wanted) is not None:
            raise ValueError("targets: expected one class of each image, as components are asked for; got several")
        errors = [None] * count if errors is None else list(errors)
        while True:
            step = min(self.limit or count, count)
            parts: list[Found] = []
            for i in range(0, count, step):
                found = self._whole(images[i : i + step], wanted[i : i + step], errors[i : i + step])
                if found is None:
                    break
                parts.append(found)
            else:
                return joined(parts)
            del parts
            if step == 1:
                raise RuntimeError("out of memory with a single image")
            self.limit = (step + 1) // 2
            if images.is_cuda:
                torch.cuda.empty_cache()
            _log.warning("a batch of %d does not fit: going on with %d", step, self.limit)

    def explanation(self, images: torch.Tensor, targets: Targets | None = None) -> tuple[Explanation, Found]:
        """The explanation of images none of which fails, and what is kept of it.

        Parameters
        ----------
        images, targets
            As for a call.

        Raises
        ------
        MemoryError, RuntimeError, TypeError, ValueError
            Whatever the explainer, the model or `prepare` raises, and if `prepare` gives something else than a tensor
            with as many images.
        """
        inputs = images if self.prepare is None else _prepared(self.prepare, images)
        wanted: Any = None if targets is None else list(targets)
        result = self.explainer(inputs, wanted)
        self.size = result.size
        overlays = result.overlay(images) if self.overlay else None
        groups = None if self.components is None else result.components(inputs, self.components)
        return result, measured(result, overlays, groups, self.dtype)

    def _whole(self, images: torch.Tensor, targets: Sequence[Any], errors: list[str | None]) -> Found | None:
        """A batch in one go, or None where it is too large.

        Images of a batch that fails are tried alone, and then the good ones together again: the batch keeps its size,
        so that no map depends on which other images failed.
        """
        found = attempt(lambda: self._explain(images, targets, errors), images.device)
        if not isinstance(found, Exception):
            return found
        if isinstance(found, OUT_OF_MEMORY):
            return None
        if len(images) == 1:
            return self._nothing(images, targets, [reason(found)])
        for b in [b for b, error in enumerate(errors) if error is None]:
            alone = self._whole(images[b : b + 1], targets[b : b + 1], [None])
            if alone is None:
                return None
            errors[b] = alone.errors[0]
        again = attempt(lambda: self._explain(images, targets, errors), images.device)
        # Where none fails by itself, the batch was too large for the host's memory, say.
        return None if isinstance(again, Exception) else again

    def _explain(self, images: torch.Tensor, targets: Sequence[Any], errors: list[str | None]) -> Found:
        good = [b for b, error in enumerate(errors) if error is None]
        if not good:
            return self._nothing(images, targets, errors)
        bad = torch.tensor([error is not None for error in errors], device=images.device)
        if len(good) < len(images):
            places = [b if error is None else good[0] for b, error in enumerate(errors)]
            images, targets = images[places], [targets[b] for b in places]
        _, found = self.explanation(images, targets)
        found.maps[bad] = torch.nan
        if found.overlays is not None:
            found.overlays[bad] = 0
        return replace(found, errors=list(errors))

    def _nothing(self, images: torch.Tensor, targets: Sequence[Any], errors: list[str | None]) -> Found:
        return Found.failed(
            errors,
            self.size or images.shape[2:],
            dtype=self.dtype,
            device=images.device,
            overlay=self.overlay,
            labelled=self._labelled,
            components=self.components is not None,
            classes=_classes(targets),
        )


def _classes(targets: Sequence[Any]) -> int | None:
    """How many classes of each image there are; None where it is one without an axis of its own."""
    return len(targets[0]) if isinstance(targets[0], Sequence) else None


def trial(
    explainer: Explainer,
    prepare: Prepare | None,
    example: torch.Tensor,
    *,
    overlay: bool = False,
    components: int | None = None,
) -> Explanation:
    """The explanation of one image, before a data set is gone through.

    Where it fails, noise of the same kind is explained in its place: if that fails, too, it is no fault of the image.
    It is none of its kind either where values alone are wrong: activations or logits that are not finite.

    Parameters
    ----------
    explainer, prepare, overlay, components
        As for :class:`BatchExplainer`.
    example : (1, C, H, W) tensor on the model's device
        As the data set gives it; of volumes (1, C, D, H, W), of signals (1, C, L).

    Returns
    -------
    Explanation
        Of the predicted class of `example`, or of noise; with an empty map where neither has finite values.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        If every image would fail: dtype, number of channels or size are not the model's, say. The message names the
        data set or `prepare`.
    """
    explain = BatchExplainer(explainer, prepare=prepare, overlay=overlay, components=components)
    faults = []
    for images in (example, _noise_like(example)):
        found = attempt(lambda images=images: explain.explanation(images)[0], example.device)  # type: ignore[misc]
        if isinstance(found, Explanation):
            return found
        faults.append(found)
    if all(isinstance(fault, NotFiniteError) for fault in faults) and explainer.layers is not None:
        if isinstance(explainer, Deployed):
            return explainer._nothing()
        return _empty(explainer, example if prepare is None else _prepared(prepare, example))
    fault = faults[-1]
    if isinstance(fault, OUT_OF_MEMORY):
        raise RuntimeError(f"out of memory with a single image: {reason(fault)}")
    kind = next(kind for kind in FAILURES if isinstance(fault, kind))
    came = f"{tuple(example.shape[1:])}, {str(example.dtype).removeprefix('torch.')}, on '{example.device}'"
    why = f"every image fails: {reason(fault)}"
    if prepare is not None:
        raise kind(f"prepare: expected it to make the model's input of images {came}; {why}")
    dims, hint = None if isinstance(explainer, Deployed) else axes.of_model(explainer.model), ""
    if dims not in (None, example.ndim - 2):
        hint = f". The model's first convolution works on {dims} axes: spatial_dims={dims}?"
    raise kind(
        f"dataset: expected images as the model takes them, or `prepare`, which makes them so; got {came}, and "
        f"{why}{hint}"
    )


def _empty(explainer: CFCAM | CAM, images: torch.Tensor) -> Explanation:
    """What there is of an image without finite values: what the model says of it, and the size of its map."""
    assert explainer.layers is not None
    with guarded(explainer.model):
        logits = logits_for(Request(), explainer.model(images), len(images))
    layout, dims = explainer.layers[0].layout, images.ndim - 2
    return Explanation(
        raw_maps=torch.zeros(1, *[1] * dims, device=images.device),
        target=torch.zeros(1, dtype=torch.int64, device=images.device),
        logits=logits,
        labels=None,
        weights=None,
        eps=None,
        layers=explainer.layers,
        config=explainer.config if isinstance(explainer, CFCAM) else None,
        size=tuple(images.shape[2:]) if layout is None else layout.size_of(images.shape),
        method="cfcam" if isinstance(explainer, CFCAM) else explainer.method,
    )


def _noise_like(images: torch.Tensor) -> torch.Tensor:
    """Noise of the same shape, dtype and device; the same every time."""
    generator = torch.Generator().manual_seed(0)
    if images.is_floating_point():
        return torch.rand(images.shape, generator=generator).to(images)
    return torch.randint(0, 128, images.shape, generator=generator).to(images)


def _prepared(prepare: Prepare, images: torch.Tensor) -> torch.Tensor:
    inputs = prepare(images)
    if not isinstance(inputs, torch.Tensor):
        raise TypeError(f"prepare: expected it to return a tensor; got {type(inputs).__name__}")
    if inputs.ndim == 0 or len(inputs) != len(images):
        raise ValueError(
            f"prepare: expected it to return the {len(images)} images that it was given; got shape "
            f"{tuple(inputs.shape)}"
        )
    return inputs
