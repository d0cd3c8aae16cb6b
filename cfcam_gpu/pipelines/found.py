"""What is kept of the explanations of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch

from ..core.cluster_filter import DEAD, DOMINANT, NOISE
from ..results.components import Component
from ..results.explanation import Explanation
from ..targets.outputs import probabilities
from .map_summaries import summarised

#: What is no class's but the image's.
_OF_IMAGES = ("predicted", "predicted_probability")
#: An image's groups of channels: of each its `name`, `share` and `channels`.
Groups: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of the B images of a batch. Tensors are on the images' device, or on the host (:meth:`to_host`).

    Of an image with an error, the map is NaN, the overlay black, and the rest without meaning. With T classes of each
    image, all but `predicted`, its probability, `components` and `errors` have a T after the B.

    Parameters
    ----------
    maps : (B, *spatial) float16 or float32
        In [0, 1].
    overlays : (B, H, W, 3) uint8, or None
    target, predicted : (B,) int64
        The class that is explained, and the predicted one.
    probability, predicted_probability : (B,) float32
        Theirs.
    empty : (B,) bool
    area, entropy : (B,) float32
    centre : (B, n) float32
        See :class:`cfcam_gpu.pipelines.map_summaries.MapSummaries`; of the maps before they were rounded to float16.
    clusters, noise, dominant, dead : (B,) int64, or None
        How many clusters, and how many channels of each other kind; None where the method is not CF-CAM, and of several
        looks.
    components : list of B lists or None
        The groups of channels as ``cfcam-gpu explain --components`` writes them, where they were asked for.
    errors : list of B str or None
    """

    maps: torch.Tensor
    overlays: torch.Tensor | None
    target: torch.Tensor
    probability: torch.Tensor
    predicted: torch.Tensor
    predicted_probability: torch.Tensor
    empty: torch.Tensor
    area: torch.Tensor
    centre: torch.Tensor
    entropy: torch.Tensor
    clusters: torch.Tensor | None
    noise: torch.Tensor | None
    dominant: torch.Tensor | None
    dead: torch.Tensor | None
    components: list[Groups | None] | None
    errors: list[str | None]

    @classmethod
    def failed(
        cls,
        errors: Sequence[str | None],
        size: Sequence[int],
        *,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        overlay: bool = False,
        labelled: bool = True,
        components: bool = False,
        classes: int | None = None,
    ) -> Found:
        """The place of images none of which could be explained.

        Parameters
        ----------
        errors : sequence of B str or None
        size : sequence of int
            Of the maps.
        dtype : torch.dtype
            Of the maps.
        device : torch.device
        overlay, labelled, components : bool
            Whether there are overlays, numbers of channels, and components.
        classes : int, optional
            T, where there is such an axis.
        """
        count = len(errors)
        shape = (count,) if classes is None else (count, classes)
        predicted = torch.zeros(count, dtype=torch.int64, device=device)
        whole = torch.zeros(shape, dtype=torch.int64, device=device)
        share = whole.float()
        channels = whole if labelled else None
        return cls(
            maps=torch.full((*shape, *size), torch.nan, dtype=dtype, device=device),
            overlays=torch.zeros(*shape, *size, 3, dtype=torch.uint8, device=device) if overlay else None,
            target=whole,
            probability=share,
            predicted=predicted,
            predicted_probability=predicted.float(),
            empty=whole.bool(),
            area=share,
            centre=torch.zeros(*shape, len(size), device=device),
            entropy=share,
            clusters=channels,
            noise=channels,
            dominant=channels,
            dead=channels,
            components=[None] * count if components else None,
            errors=list(errors),
        )

    def to_host(self) -> Found:
        """The same on the host; waits for the device."""
        moved: dict[str, Any] = {
            name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in _items(self)
        }
        return Found(**moved)

    def of_class(self, number: int) -> Found:
        """What is known of one of T classes: without the T axis."""
        chosen: dict[str, Any] = {
            name: value[:, number] if isinstance(value, torch.Tensor) and name not in _OF_IMAGES else value
            for name, value in _items(self)
        }
        return Found(**chosen)


def measured(
    result: Explanation,
    overlays: torch.Tensor | None,
    groups: list[list[Component]] | None,
    dtype: torch.dtype,
) -> Found:
    """What is kept of an explanation of B images.

    Parameters
    ----------
    result : Explanation
    overlays : (B, H, W, 3) uint8, or None
    groups : list of B lists of Component, or None
    dtype : torch.dtype
        Of the maps.
    """
    assert result.target is not None
    assert result.logits is not None
    logits, labels = result.logits.detach(), result.labels
    predicted, shares = logits.argmax(dim=1), probabilities(logits)
    # (B,), or (B, T)
    shape = result.target.shape
    summaries = summarised(result.maps.flatten(0, len(shape) - 1))._asdict()
    return Found(
        maps=result.maps.to(dtype, copy=True),
        overlays=overlays,
        target=result.target,
        probability=shares.gather(1, result.target.reshape(len(result), -1)).reshape(shape),
        predicted=predicted,
        predicted_probability=shares.gather(1, predicted[:, None])[:, 0],
        empty=result.empty,
        **{name: values.unflatten(0, shape) for name, values in summaries.items()},
        clusters=None if labels is None else labels.amax(dim=-1).clamp(min=-1) + 1,
        noise=_count(labels, NOISE),
        dominant=_count(labels, DOMINANT),
        dead=_count(labels, DEAD),
        components=None if groups is None else [[one.describe() for one in of_image] for of_image in groups],
        errors=[None] * len(result),
    )


def _count(labels: torch.Tensor | None, label: int) -> torch.Tensor | None:
    return None if labels is None else (labels == label).sum(dim=-1)


def _items(found: Found) -> list[tuple[str, Any]]:
    return [(field.name, getattr(found, field.name)) for field in fields(found)]


def joined(parts: Sequence[Found]) -> Found:
    """One of several batches that were explained alike."""
    values_of: dict[str, Any] = {}
    for name, first in _items(parts[0]):
        values = [getattr(part, name) for part in parts]
        if isinstance(first, list):
            values_of[name] = [value for of_part in values for value in of_part]
        else:
            values_of[name] = first if first is None or len(parts) == 1 else torch.cat(values)
    return Found(**values_of)
