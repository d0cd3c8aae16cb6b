"""A batch explained whatever is in it: one bad image costs no other its map, nor a bit of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..core.cluster_filter import DEAD, DOMINANT, NOISE
from ..explain.attempts import OUT_OF_MEMORY, attempt, reason
from ..explain.cfcam import CFCAM
from ..results.explanation import Explanation
from ..targets.outputs import probabilities

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of the B images of a batch. Tensors are on the images' device, or on the host (:meth:`to_host`).

    Of an image with an error, the map is NaN, the overlay black, and the rest without meaning.

    Parameters
    ----------
    maps : (B, H, W) float16 or float32
        In [0, 1].
    overlays : (B, H, W, 3) uint8, or None
    target : (B,) int64
    probability : (B,) float32
    empty : (B,) bool
    clusters, noise, dominant, dead : (B,) int64
        How many clusters, and how many channels of each other kind.
    errors : list of B str or None
    """

    maps: torch.Tensor
    overlays: torch.Tensor | None
    target: torch.Tensor
    probability: torch.Tensor
    empty: torch.Tensor
    clusters: torch.Tensor
    noise: torch.Tensor
    dominant: torch.Tensor
    dead: torch.Tensor
    errors: list[str | None]

    def to_host(self) -> Found:
        """The same on the host; waits for the device."""
        moved: dict[str, Any] = {
            name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in _items(self)
        }
        return Found(**moved)


class BatchExplainer:
    """Explains batches for :func:`cfcam_gpu.pipelines.run`, and for whoever has a loop of their own.

    Parameters
    ----------
    explainer : CFCAM
    prepare : callable, optional
        Makes the model's input (B, C, H, W) of what :meth:`__call__` gets, on the device.
        :meth:`cfcam_gpu.photographs.Preparation.normalize`, say.
    dtype : torch.dtype
        Of the maps that are returned.
    overlay : bool
        Draw the overlays, too.

    Raises
    ------
    ValueError
        If `explainer` takes several looks (augment, smooth): their results count no channels.

    Notes
    -----
    Where the device's memory does not hold a batch, it is halved until it does, here and for later batches (``limit``).
    """

    def __init__(
        self,
        explainer: CFCAM,
        *,
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
        dtype: torch.dtype = torch.float16,
        overlay: bool = False,
    ) -> None:
        if explainer._views.several:
            raise ValueError("explainer: expected one without augment and smooth, whose results count no channels")
        self.explainer = explainer
        self.prepare = prepare
        self.dtype = dtype
        self.overlay = overlay
        self.limit: int | None = None

    def __call__(
        self,
        images: torch.Tensor,
        targets: Sequence[int | None] | None = None,
        errors: Sequence[str | None] | None = None,
    ) -> Found:
        """Explain a batch.

        An image that fails gets an error, and a good one of the batch takes its place: the others' maps are those of a
        batch of this size, whatever happened beside them.

        Parameters
        ----------
        images : (B, C, H, W) tensor on the model's device
        targets : sequence of B int or None, optional
            A class each; None is the predicted class.
        errors : sequence of B str or None, optional
            Of images that are known to be bad already, whatever stands in their place.

        Raises
        ------
        RuntimeError
            If the device's memory does not hold a single image, or the device is out of order.
        """
        count = len(images)
        targets = [None] * count if targets is None else list(targets)
        errors = [None] * count if errors is None else list(errors)
        while True:
            step = min(self.limit or count, count)
            parts: list[Found] = []
            for i in range(0, count, step):
                found = self._whole(images[i : i + step], targets[i : i + step], errors[i : i + step])
                if found is None:
                    break
                parts.append(found)
            else:
                return _join(parts)
            del parts
            if step == 1:
                raise RuntimeError("out of memory with a single image")
            self.limit = (step + 1) // 2
            if images.is_cuda:
                torch.cuda.empty_cache()
            _log.warning("a batch of %d does not fit: going on with %d", step, self.limit)

    def _whole(self, images: torch.Tensor, targets: list[int | None], errors: list[str | None]) -> Found | None:
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
            return self._nothing(images, [reason(found)])
        for b in [b for b, error in enumerate(errors) if error is None]:
            alone = self._whole(images[b : b + 1], targets[b : b + 1], [None])
            if alone is None:
                return None
            errors[b] = alone.errors[0]
        again = attempt(lambda: self._explain(images, targets, errors), images.device)
        # Where none fails by itself, the batch was too large for the host's memory, say.
        return None if isinstance(again, Exception) else again

    def _explain(self, images: torch.Tensor, targets: list[int | None], errors: list[str | None]) -> Found:
        good = [b for b, error in enumerate(errors) if error is None]
        if not good:
            return self._nothing(images, errors)
        bad = torch.tensor([error is not None for error in errors], device=images.device)
        if len(good) < len(images):
            places = [b if error is None else good[0] for b, error in enumerate(errors)]
            images, targets = images[places], [targets[b] for b in places]
        inputs = images if self.prepare is None else self.prepare(images)
        result = self.explainer(inputs, targets)
        overlays = result.overlay(images) if self.overlay else None
        found = measure(result, overlays, self.dtype)
        found.maps[bad] = torch.nan
        if overlays is not None:
            overlays[bad] = 0
        return replace(found, errors=list(errors))

    def _nothing(self, images: torch.Tensor, errors: list[str | None]) -> Found:
        count, size, device = len(images), images.shape[-2:], images.device
        whole = torch.zeros(count, dtype=torch.int64, device=device)
        return Found(
            maps=torch.full((count, *size), torch.nan, dtype=self.dtype, device=device),
            overlays=torch.zeros(count, *size, 3, dtype=torch.uint8, device=device) if self.overlay else None,
            target=whole,
            probability=whole.float(),
            empty=whole.bool(),
            clusters=whole,
            noise=whole,
            dominant=whole,
            dead=whole,
            errors=list(errors),
        )


def measure(result: Explanation, overlays: torch.Tensor | None, dtype: torch.dtype) -> Found:
    """What is kept of an explanation of B images, one target each."""
    assert result.target is not None
    assert result.logits is not None
    assert result.labels is not None
    share = probabilities(result.logits).gather(1, result.target[:, None])[:, 0]
    counts = {"noise": NOISE, "dominant": DOMINANT, "dead": DEAD}
    return Found(
        maps=result.maps.to(dtype, copy=True),
        overlays=overlays,
        target=result.target,
        probability=share.detach(),
        empty=result.empty,
        clusters=result.labels.amax(dim=1).clamp(min=-1) + 1,
        **{kind: (result.labels == label).sum(dim=1) for kind, label in counts.items()},
        errors=[None] * len(result),
    )


def _items(found: Found) -> list[tuple[str, Any]]:
    return [(field.name, getattr(found, field.name)) for field in fields(found)]


def _join(parts: Sequence[Found]) -> Found:
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {"errors": [error for part in parts for error in part.errors]}
    for name, value in _items(parts[0]):
        if name != "errors":
            joined[name] = None if value is None else torch.cat([getattr(part, name) for part in parts])
    return Found(**joined)
