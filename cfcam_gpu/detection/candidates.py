"""What a detector may have found in an image, and which of it is explained."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..targets.references import iou


@dataclass(frozen=True, eq=False)
class Candidates:
    """All boxes that a detector considered in one image, with their scores.

    Parameters
    ----------
    boxes : (Q, 4) or (Q, K, 4) float32 tensor
        x1, y1, x2, y2 in the given image's pixels; with K where each class has boxes of its own.
    scores : (Q, K) float32 tensor
        In [0, 1]; -1 of what is no class, as the background.
    score_of : callable, optional
        The score of a candidate (q) for a class (k) with autograd's graph, or any increasing function of it.
    one_class : bool
        Whether a box is of its likeliest class alone.
    overlap : float or None
        Of two boxes of a class that have more than this intersection over union, the one with the lower score is
        dropped; None drops none.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    score_of: Callable[[int, int], torch.Tensor] | None = None
    one_class: bool = False
    overlap: float | None = None

    def box(self, place: Place) -> torch.Tensor:
        """The box (4,) of a candidate."""
        return self.boxes[place.candidate, place.label] if self.boxes.ndim == 3 else self.boxes[place.candidate]

    def score(self, place: Place) -> torch.Tensor:
        """The score of a candidate, a scalar."""
        return self.scores[place.candidate, place.label]


class Place(NamedTuple):
    """One detection: which candidate, and of which class."""

    candidate: int
    label: int


def found(candidates: Candidates, threshold: float, top: int, labels: Collection[int] | None) -> list[Place]:
    """The detections of an image: those of at least the threshold, strongest first, without doubles.

    Parameters
    ----------
    candidates : Candidates
    threshold : float
    top : int
        At most so many.
    labels : collection of int, optional
        Of these classes alone.
    """
    scores = candidates.scores
    if candidates.one_class:
        scores = scores.where(scores == scores.amax(dim=1, keepdim=True), -1.0)
    above = (scores >= threshold) & (scores >= 0)
    if labels is not None:
        wanted = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        wanted[torch.tensor(sorted(labels), dtype=torch.int64, device=scores.device)] = True
        above = above & wanted
    rows, columns = above.nonzero(as_tuple=True)
    values = scores[rows, columns]
    order = values.argsort(descending=True, stable=True)
    rows, columns = rows[order], columns[order]
    boxes = candidates.boxes[rows, columns] if candidates.boxes.ndim == 3 else candidates.boxes[rows]
    # On the host from here on, which would else wait for the device at each box.
    kept = _without_doubles(boxes.cpu(), columns.cpu(), top, candidates.overlap)
    places = list(zip(rows.tolist(), columns.tolist()))
    return [Place(*places[i]) for i in kept]


def _without_doubles(boxes: torch.Tensor, labels: torch.Tensor, top: int, overlap: float | None) -> list[int]:
    """Non-maximum suppression, class by class, of boxes in the order of their scores; the first `top` that stay."""
    if overlap is None:
        return list(range(min(top, len(boxes))))
    kept: list[int] = []
    free = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    # Box by box: at most `top` rounds, whatever the number of boxes.
    while len(kept) < top and bool(free.any()):
        first = int(free.to(torch.uint8).argmax())
        kept.append(first)
        free &= ~((iou(boxes, boxes[first]) > overlap) & (labels == labels[first]))
        free[first] = False
    return kept


def nearest(candidates: Candidates, box: torch.Tensor, label: int | None) -> Place | None:
    """The candidate that speaks for a given box: of the largest product of score and overlap with it.

    That is the similarity of D-RISE (Petsiuk et al., CVPR 2021, arXiv:2006.03204). None where no candidate overlaps
    the box, or has a score above 0.
    """
    scores = candidates.scores.clamp_min(0)
    if label is not None:
        column = torch.zeros_like(scores)
        column[:, label] = scores[:, label]
        scores = column
    overlaps = iou(candidates.boxes.reshape(-1, 4), box.to(candidates.boxes))
    overlaps = overlaps.reshape(len(scores), -1)  # (Q, K), or (Q, 1) where classes share boxes
    products = scores * overlaps
    best = int(products.argmax()) if products.numel() else 0
    if not products.numel() or float(products.flatten()[best]) <= 0:
        return None
    return Place(best // scores.shape[1], best % scores.shape[1])


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """x1, y1, x2, y2 from centre and size: boxes (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
