"""Boxes and scores in what a detector returned: as transformers, as YOLO, in lists, or as a callable finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..targets.outputs import first_tensor
from .candidates import Candidates, corners
from .torchvision_dense import log_odds

#: Of what a model returned, for each image a mapping with ``boxes``, ``labels`` and ``scores``.
Find = Callable[[Any], Sequence[Mapping[str, torch.Tensor]]]

#: Of YOLO's boxes of a class, those that overlap more are taken for one.
_OVERLAP = 0.5

_WAY_OUT = (
    "give find=, a callable that returns for each image a dict of boxes (N, 4) in pixels x1 y1 x2 y2, labels (N,) and "
    "scores (N,), the scores with their gradients"
)


@dataclass(eq=False)
class OutputForward:
    """One forward whose output has all that is needed.

    Parameters
    ----------
    sizes : sequence of (int, int)
        Height and width of each image.
    classes : int or None
        How many the model has, where it says so.
    find : callable, optional
    """

    sizes: Sequence[tuple[int, int]]
    classes: int | None = None
    find: Find | None = None
    parts: list[Candidates] = field(default_factory=list)

    def hooks(self) -> Iterator[Any]:
        """None."""
        return iter(())

    def read(self, output: Any) -> None:
        """Find the boxes and their scores in what the model returned.

        Raises
        ------
        TypeError, ValueError
            If it can't be told which they are.
        """
        if self.find is not None:
            self.parts = _of_lists(self.find(output), self.sizes, "find")
        elif (logits := _named(output, "logits")) is not None and (boxes := _named(output, "pred_boxes")) is not None:
            self.parts = [_of_queries(logits[b], boxes[b], size, self.classes) for b, size in enumerate(self.sizes)]
        elif isinstance(output, (list, tuple)) and all(_is_detection(one) for one in output) and output:
            self.parts = _of_lists(output, self.sizes, "model")
        else:
            rows = _rows(output, self.classes, len(self.sizes))
            self.parts = [_of_rows(rows[b]) for b in range(len(self.sizes))]

    def candidates(self, image: int, *, graph: bool = False) -> Candidates:
        """What was considered in an image."""
        return self.parts[image]


def roots(classes: int | None, find: Find | None) -> Callable[[Any], Any]:
    """What gives the scores and the boxes, with their graph, of an image's part of the output."""

    def of(sample: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if find is not None or _is_detection(sample):
            found = sample if find is None else find(_batch_of(sample))[0]
            return found["scores"], found["boxes"]
        logits, boxes = _named(sample, "logits"), _named(sample, "pred_boxes")
        if logits is not None and boxes is not None:
            return logits, boxes
        rows = _rows(_batch_of(sample), classes, 1)[0]
        return rows.scores, rows.boxes

    return of


def _batch_of(sample: Any) -> Any:
    """An image's part of an output as the output of a batch of one."""
    if isinstance(sample, torch.Tensor):
        return sample[None]
    if isinstance(sample, Mapping):
        return {key: _batch_of(value) for key, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        return type(sample)(_batch_of(value) for value in sample)
    return sample


def _named(output: Any, key: str) -> torch.Tensor | None:
    value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
    return value if isinstance(value, torch.Tensor) else None


def _is_detection(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), torch.Tensor) for key in ("boxes", "scores"))


def _of_queries(logits: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], classes: int | None) -> Candidates:
    """Of transformers' detectors: logits (Q, K), boxes (Q, 4) as centre and size, relative to the image.

    Where there is a class more than the model has names for, the last is "no object", and classes exclude each other.
    """
    height, width = size
    scale = boxes.new_tensor([width, height, width, height]).float()
    placed = corners(boxes.detach().float()) * scale
    placed = placed.clamp_min(0).minimum(scale)
    raw = logits.detach().float()
    exclusive = classes is not None and logits.shape[-1] == classes + 1
    if exclusive:
        scores = raw.softmax(dim=-1)
        scores[:, -1] = -1.0
        return Candidates(placed, scores, lambda query, label: log_odds(logits, query, label), one_class=True)
    return Candidates(placed, raw.sigmoid(), lambda query, label: logits[query, label])


@dataclass(frozen=True, eq=False)
class _Rows:
    """Boxes (N, 4) in pixels and scores (N, K) with their graph."""

    boxes: torch.Tensor
    scores: torch.Tensor


def _rows(output: Any, classes: int | None, batch: int) -> list[_Rows]:
    """YOLO's one tensor: (B, 4 + K, N) since version 8, or (B, N, 5 + K), with an objectness, before.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or may be either.
    """
    tensor = first_tensor(output)
    if tensor is None:
        raise TypeError(f"model: expected boxes and scores in its output; got {type(output).__name__}; {_WAY_OUT}")
    shape = tuple(tensor.shape)
    parts = list(output) if isinstance(output, (list, tuple)) else [output]
    # YOLO's boxes may come with the raw levels, or with masks, that they are made of. Several alike are levels.
    alike = sum(isinstance(part, torch.Tensor) and part.ndim == 3 for part in parts)
    if len(shape) != 3 or shape[0] != batch or alike > 1:
        several = (
            f"a {type(output).__name__} of {len(parts)}, the first of shape {shape}" if len(parts) > 1 else f"{shape}"
        )
        raise ValueError(
            f"model: expected one tensor (B, 4 + K, N) or (B, N, 5 + K) of boxes and scores; got {several}, of which "
            f"it can't be told how boxes are coded; {_WAY_OUT}"
        )
    _, first, second = shape
    by_column = first < second if classes is None else first == classes + 4
    by_row = first > second if classes is None else second == classes + 5
    if by_column == by_row or (by_row and second < 6) or (by_column and first < 5) or (classes is None and second == 6):
        known = "" if classes is None else f" with the model's {classes} classes"
        raise ValueError(
            f"model: expected (B, 4 + K, N) or (B, N, 5 + K){known}, of which one alone fits; got {shape}; {_WAY_OUT}"
        )
    values = tensor.transpose(1, 2) if by_column else tensor
    boxes, rest = corners(values[..., :4]), values[..., 4:]
    scores = rest if by_column else rest[..., :1] * rest[..., 1:]
    span = rest.detach()
    if span.numel() and not bool(((span >= 0) & (span <= 1)).all()):
        raise ValueError(
            f"model: expected scores in [0, 1] behind the four numbers of a box in its output {shape}; got values from "
            f"{float(span.min()):.3g} to {float(span.max()):.3g}; {_WAY_OUT}"
        )
    return [_Rows(boxes[b], scores[b]) for b in range(batch)]


def _of_rows(rows: _Rows) -> Candidates:
    scores = rows.scores
    return Candidates(
        rows.boxes.detach().float(),
        scores.detach().float(),
        lambda row, label: scores[row, label],
        overlap=_OVERLAP,
    )


def _of_lists(found: Any, sizes: Sequence[tuple[int, int]], argument: str) -> list[Candidates]:
    """Of detections that are chosen already."""
    if not isinstance(found, (list, tuple)) or len(found) != len(sizes) or not all(map(_is_detection, found)):
        got = f"{len(found)} of them" if isinstance(found, (list, tuple)) else type(found).__name__
        raise TypeError(
            f"{argument}: expected for each of the {len(sizes)} images a dict with boxes (N, 4), labels (N,) and "
            f"scores (N,); got {got}"
        )
    return [_of_list(one, argument) for one in found]


def _of_list(found: Mapping[str, torch.Tensor], argument: str) -> Candidates:
    boxes, scores = found["boxes"], found["scores"]
    count = len(scores)
    # The detector's own steps behind its scores may have been done on the host.
    boxes = boxes.to(scores.device)
    labels = found.get("labels", torch.zeros(count, dtype=torch.int64)).to(scores.device, torch.int64)
    if boxes.shape != (count, 4) or labels.shape != (count,) or scores.shape != (count,):
        raise TypeError(
            f"{argument}: expected boxes (N, 4), labels (N,) and scores (N,) of an image; got shapes "
            f"{tuple(boxes.shape)}, {tuple(labels.shape)} and {tuple(scores.shape)}"
        )
    table = torch.full((count, int(labels.max()) + 1 if count else 1), -1.0, device=scores.device)
    table[torch.arange(count, device=scores.device), labels] = scores.detach().float()
    return Candidates(boxes.detach().float(), table, lambda row, label: scores[row])


def classes_of(model: nn.Module, names: Sequence[str] | None) -> int | None:
    """How many classes a model says that it has."""
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    if isinstance(labels, int):
        return labels
    number = getattr(model, "nc", None)  # ultralytics
    if isinstance(number, int):
        return number
    return None if names is None else len(names)
