"""Which boxes a caller wants explained: those that are found, or given ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..targets.names import class_index
from .candidates import Candidates, Place, found, nearest


@dataclass(frozen=True)
class Asked:
    """A checked request.

    Parameters
    ----------
    threshold : float
    top : int
    only : frozenset of int or None
        The classes that are looked for; None is all.
    boxes : tuple of B tensors (N, 4), or None
        The boxes to explain.
    labels : tuple of B tuples of N ints or None, or None
        Their classes; None in it is the class that scores highest.
    """

    threshold: float
    top: int
    only: frozenset[int] | None
    boxes: tuple[torch.Tensor, ...] | None = None
    labels: tuple[tuple[int | None, ...], ...] | None = None

    @classmethod
    def read(
        cls, batch: int, boxes: Any, labels: Any, threshold: float, top: int, names: Sequence[str] | None
    ) -> Asked:
        """Check what a caller gave.

        Raises
        ------
        TypeError, ValueError
            That names the argument, what was expected and what came.
        """
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool) and math.isfinite(threshold)
        if not number or not 0 <= threshold <= 1:
            raise ValueError(f"threshold: expected a number in [0, 1]; got {threshold!r}")
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise ValueError(f"top: expected an int of at least 1; got {top!r}")
        if boxes is None:
            only = None if labels is None else frozenset(_label(one, names) for one in _listed(labels))
            return cls(float(threshold), top, only)
        of_images = _boxes(boxes, batch)
        return cls(float(threshold), top, None, of_images, _labels(labels, of_images, names))

    def places(self, candidates: Candidates, image: int) -> list[Place]:
        """The candidates of an image that are explained.

        Raises
        ------
        ValueError
            If a class is out of range, or no candidate speaks for a box.
        """
        classes = candidates.scores.shape[1]
        if self.boxes is None:
            # A detector that lists what it found may have found nothing of a class.
            only = None if self.only is None else {label for label in self.only if label < classes}
            return found(candidates, self.threshold, self.top, only)
        assert self.labels is not None
        places = []
        for i, (box, label) in enumerate(zip(self.boxes[image], self.labels[image])):
            place = None if label is not None and label >= classes else nearest(candidates, box, label)
            if place is None:
                of_class = "" if label is None else f" of class {label}"
                raise ValueError(
                    f"boxes: expected boxes that a candidate{of_class} overlaps; box {i} of image {image}, "
                    f"{[round(side, 1) for side in box.tolist()]}, has none among {len(candidates.scores)}"
                )
            places.append(place)
        return places

    def boxes_of(self, candidates: Candidates, places: Sequence[Place], image: int) -> torch.Tensor:
        """The boxes (N, 4): as given, or as found."""
        if self.boxes is not None:
            return self.boxes[image].to(candidates.boxes.device)
        if not places:
            return candidates.boxes.new_zeros(0, 4)
        return torch.stack([candidates.box(place) for place in places])


def _boxes(boxes: Any, batch: int) -> tuple[torch.Tensor, ...]:
    of_images = list(boxes) if isinstance(boxes, (list, tuple)) and not _is_box(boxes) else [boxes]
    if of_images and all(_is_box(box) for box in of_images):  # a list of boxes is of one image
        of_images = [of_images]
    if len(of_images) != batch:
        raise ValueError(f"boxes: expected (N, 4) for each of the {batch} images; got {len(of_images)} of them")
    read = []
    for one in of_images:
        try:
            tensor = torch.as_tensor(one, dtype=torch.float32).detach().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"boxes: expected numbers (N, 4); got {type(one).__name__} ({error})") from None
        tensor = tensor.reshape(0, 4) if tensor.numel() == 0 else tensor
        if tensor.ndim == 1 and len(tensor) == 4:
            tensor = tensor[None]
        if tensor.ndim != 2 or tensor.shape[1] != 4:
            raise ValueError(f"boxes: expected (N, 4), x1 y1 x2 y2, for each image; got {tuple(tensor.shape)}")
        bad = ~((tensor[:, 2:] > tensor[:, :2]).all(dim=1) & tensor.isfinite().all(dim=1))
        if bool(bad.any()):
            raise ValueError(f"boxes: expected x1 < x2 and y1 < y2 in pixels; got {tensor[bad][0].tolist()}")
        read.append(tensor)
    return tuple(read)


def _is_box(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(isinstance(x, (int, float)) for x in value)


def _labels(
    labels: Any, boxes: Sequence[torch.Tensor], names: Sequence[str] | None
) -> tuple[tuple[int | None, ...], ...]:
    counts = [len(one) for one in boxes]
    if labels is None or isinstance(labels, (int, str)):
        label = None if labels is None else _label(labels, names)
        return tuple((label,) * count for count in counts)
    rows = _listed(labels)
    if len(boxes) == 1 and not (len(rows) == 1 and _is_row(rows[0])):
        rows = [rows]
    if len(rows) != len(boxes) or not all(_is_row(row) and len(row) == n for row, n in zip(rows, counts)):
        raise ValueError(f"labels: expected one for each box, {counts} of the images; got {labels!r:.80}")
    return tuple(tuple(None if one is None else _label(one, names) for one in row) for row in rows)


def _is_row(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _listed(labels: Any) -> list[Any]:
    if isinstance(labels, torch.Tensor) or hasattr(labels, "tolist"):
        labels = labels.tolist()
    if isinstance(labels, (list, tuple, set, frozenset)):
        return list(labels)
    return [labels]


def _label(label: Any, names: Sequence[str] | None) -> int:
    if isinstance(label, str):
        if names is None:
            raise ValueError(
                f"labels: expected class indices, as no names of classes are known; got {label!r}. Give class_names"
            )
        try:
            return class_index(label, names)
        except ValueError as error:
            raise ValueError(f"labels: {str(error).removeprefix('target: ')}") from None
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        raise ValueError(f"labels: expected classes, by index or by name; got {label!r}")
    if names is not None and label >= len(names):
        raise ValueError(f"labels: expected a class from 0 to {len(names) - 1}; got {label}")
    return label
