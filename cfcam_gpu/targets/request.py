"""A target as the caller wrote it, read, checked and resolved into scores of a model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from .names import ClassNames, with_indices
from .outputs import PerImage, by_entries, logits_of, no_logits, samples

#: A score of one image: it gets the image's logits (K, ...), or its part of the output, and returns a scalar tensor.
Score: TypeAlias = Callable[[Any], torch.Tensor]
#: Scores (B,) of classes (B,) from logits (B, K).
Objective: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Target: TypeAlias = (
    "int | str | Sequence[int | str | None] | Sequence[Sequence[int | str]] | torch.Tensor | Score | Sequence[Score] | "
    "Sequence[Sequence[Score]] | None"
)


@dataclass(frozen=True)
class Request:
    """A checked target, before the logits are known.

    At most one of `indices` and `scores` is set; neither means the predicted class.

    Parameters
    ----------
    indices : (B,) or (B, T) int64 tensor or None
        On the device where the caller had it, or on the host.
    predicted : (B,) bool tensor on the host, or None
        Which images' `indices` are placeholders of the predicted class.
    scores : tuple of B callables, or of B tuples of T callables, or None
    checked : bool
        The classes are known to be in range: while a CUDA graph is captured nobody can look at them.
    objective : callable or None
        How a class is scored; None is by its logit. Callables score for themselves.
    named : int or None
        How many names the caller's classes are of: a model with another number of classes is refused.
    """

    indices: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    scores: tuple[Score | tuple[Score, ...], ...] | None = None
    checked: bool = False
    objective: Objective | None = None
    named: int | None = None

    @property
    def several(self) -> bool:
        """Whether there is a T axis."""
        if self.scores is not None:
            return isinstance(self.scores[0], tuple)
        return self.indices is not None and self.indices.ndim == 2

    @property
    def count(self) -> int:
        """T; 1 where there is no such axis."""
        if self.scores is not None:
            return len(self.scores[0]) if isinstance(self.scores[0], tuple) else 1
        return 1 if self.indices is None or self.indices.ndim == 1 else self.indices.shape[1]

    def callables(self) -> list[Score]:
        """All of them, image by image."""
        rows = [row if isinstance(row, tuple) else (row,) for row in self.scores or ()]
        return [score for row in rows for score in row]


def read(target: Target, batch: int, names: ClassNames | None = None) -> Request:
    """Check a target against the batch, before anything runs.

    Parameters
    ----------
    target : None, int, str, sequence, tensor, callable
        None explains the predicted class. An int, a class's name or a callable serves every image. A list or tensor
        (B,) has one class for each image, (B, T) has T of them; None in a list (B,) is that image's predicted class. A
        list of callables has one for each image, a list of B lists has T of them.
    batch : int
        B, the number of images.
    names : ClassNames, optional
        Of the model's classes.

    Raises
    ------
    TypeError, ValueError
        If `target` is none of these, is not of an integer dtype, or does not have one row for each image; or has a
        name that no class, or several, have.
    """
    known = None if names is None else names.names
    by_index = with_indices(target, known)
    request = _read(by_index, batch)
    used = names is not None and (names.given or by_index is not target)
    return replace(request, named=len(known)) if used and known is not None else request


def _read(target: Target, batch: int) -> Request:
    if target is None:
        return Request()
    if callable(target):
        return Request(scores=(target,) * batch)
    if isinstance(target, int) and not isinstance(target, bool):
        return Request(indices=torch.full((batch,), target))
    if isinstance(target, (list, tuple)) and target and all(callable(item) for item in target):
        _check_rows(len(target), batch)
        return Request(scores=tuple(target))
    rows = _rows_of_callables(target)
    if rows is not None:
        _check_rows(len(rows), batch)
        counts = sorted({len(row) for row in rows})
        if len(counts) > 1:
            raise ValueError(f"target: expected as many callables for each image; got {counts[0]} and {counts[-1]}")
        return Request(scores=rows)
    if isinstance(target, (list, tuple)) and not target:
        raise ValueError(f"target: expected one for each of the {batch} images; got an empty {type(target).__name__}")
    predicted = None
    if isinstance(target, (list, tuple)) and any(item is None for item in target):
        predicted = torch.tensor([item is None for item in target])
        target = [0 if item is None else item for item in target]
    indices = _as_tensor(target)
    if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
        raise TypeError(f"target: expected class indices of an integer dtype; got {indices.dtype}")
    if indices.ndim == 0:
        indices = indices.expand(batch)
    if indices.ndim > 2 or indices.numel() == 0:
        raise ValueError(f"target: expected (B,) or (B, T) class indices; got shape {tuple(indices.shape)}")
    _check_rows(len(indices), batch)
    # A copy: the caller's own may change later.
    return Request(indices=indices.to(torch.int64, copy=True), predicted=predicted)


def _rows_of_callables(target: Any) -> tuple[tuple[Score, ...], ...] | None:
    """B tuples of callables, or None where `target` is something else."""
    if not isinstance(target, (list, tuple)) or not target:
        return None
    if not all(isinstance(row, (list, tuple)) and row and all(callable(item) for item in row) for row in target):
        return None
    return tuple(tuple(row) for row in target)


def _as_tensor(target: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "target: expected None, a class index or name, a list or tensor of them (one for each image, or B rows of "
            "T), a callable, or a list of callables (one for each image, or B rows of T); got "
            f"{type(target).__name__} ({error})"
        ) from None


def _check_rows(rows: int, batch: int) -> None:
    if rows != batch:
        raise ValueError(f"target: expected one for each of the {batch} images; got {rows}")


def logits_for(
    request: Request, output: Any, batch: int, per_image: PerImage = by_entries, *, needed: bool = True
) -> torch.Tensor | None:
    """The logits (B, ...) in a model's output; None where it has none and they are not needed.

    Parameters
    ----------
    request : Request
        Callables can do without, where the model returns more than a tensor.
    output : tensor, dict, dataclass, tuple or list
    batch : int
    per_image : callable
        See :func:`cfcam_gpu.targets.outputs.samples`.
    needed : bool
        False where no class is to be scored.

    Raises
    ------
    TypeError, ValueError
        If there are no logits for each image, and they are needed.
    """
    needed = needed and (request.scores is None or isinstance(output, torch.Tensor))
    try:
        if isinstance(output, list) and len(output) == batch and per_image((), output):
            raise no_logits("a list with an entry for each image")
        logits = logits_of(output)
        if logits.ndim == 0 or len(logits) != batch:
            one = logits.ndim == 1 or (logits.ndim == 2 and len(logits) == 1)
            bag = "; if that is one answer for all of them, explain cfcam_gpu.explain.Bag(model) of images[None]" * one
            raise ValueError(
                f"model: expected logits for each of the {batch} images; got shape {tuple(logits.shape)}{bag}"
            )
    except (TypeError, ValueError):
        if needed:
            raise
        return None
    return logits


def resolve(
    request: Request,
    logits: torch.Tensor | None,
    output: Any = None,
    *,
    contrast: float = 0.0,
    per_image: PerImage = by_entries,
    spatial_dims: int | None = None,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The class indices that are explained and, for each of T targets, the scores (B,) to differentiate.

    Parameters
    ----------
    request : Request
    logits : (B, K) floating; with callables any (B, ...), or None
    output : tensor, dict, dataclass, tuple or list
        All that the model returned, for callables that ask for it, or if there are no logits.
    contrast : float
        Score a class by its logit minus this share of the log-sum-exp of its K - 1 rivals; a single logit has none.
        Callables are taken as they are.
    per_image : callable
        See :func:`cfcam_gpu.targets.outputs.samples`.
    spatial_dims : int, optional
        How many spatial axes the images have, for callables that score a map of them; None checks nothing.

    Returns
    -------
    indices : (B,) or (B, T) int64 tensor on the logits' device, or None for callables
    scores : list of T tensors (B,)

    Raises
    ------
    TypeError, ValueError
        If a class is out of range, the logits are not (B, K) though classes are asked for, or a callable does not
        return a scalar that depends on the output.
    """
    indices = class_indices(request, logits)
    if indices is None:
        assert request.scores is not None
        return None, _of_callables(request.scores, logits, output, per_image, spatial_dims)
    assert logits is not None
    classes = indices.reshape(len(indices), -1)
    if request.objective is not None:
        return indices, [request.objective(logits, column) for column in classes.unbind(dim=1)]
    # All classes at once: in a backward of many targets, each would else fill logits of its own.
    of_classes = logits.gather(1, classes)
    # Of one a view: behind `unbind`, a backward stacks.
    scores = [of_classes.squeeze(1)] if of_classes.shape[1] == 1 else list(of_classes.unbind(dim=1))
    if contrast and logits.shape[1] > 1:
        in_float32 = logits.float()
        scores = [
            score.sub(in_float32.scatter(1, column[:, None], -torch.inf).logsumexp(dim=1), alpha=contrast)
            for score, column in zip(scores, classes.unbind(dim=1))
        ]
    return indices, scores


def class_indices(request: Request, logits: torch.Tensor | None) -> torch.Tensor | None:
    """The class indices that are explained, (B,) or (B, T) int64 on the logits' device; None for callables.

    Raises
    ------
    ValueError
        If a class is out of range, or the logits are not (B, K), or of other classes than the caller's names.
    """
    if request.named is not None and logits is not None and logits.ndim == 2 and logits.shape[1] != request.named:
        raise ValueError(
            f"class_names: expected {logits.shape[1]}, one for each of the model's classes; got {request.named}. Where "
            "none are given they are the model's own, of other classes than it has now: give class_names=[...]"
        )
    if request.scores is not None:
        return None
    assert logits is not None
    if logits.ndim != 2:
        raise ValueError(
            f"target: class indices need logits (B, K); this model's are {tuple(logits.shape)}. Of a segmentation, "
            "explain targets.Segment(class); else give a callable that makes a scalar of one image's output"
        )
    if request.indices is None:
        return logits.detach().argmax(dim=1)
    if not request.checked:
        check_range(request.indices, logits.shape[1])
    # From pageable memory the host goes on once the copy is staged; what is pinned, and the caller may write to again,
    # is waited for.
    indices = request.indices.to(logits.device, non_blocking=not request.indices.is_pinned())
    if indices.is_inference():  # made in the caller's inference mode: autograd takes no such index
        indices = indices.clone()
    if request.predicted is not None:
        indices = torch.where(request.predicted.to(indices.device), logits.detach().argmax(dim=1), indices)
    return indices


def are_sound(
    logits: torch.Tensor | None, indices: torch.Tensor | None, scores: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Of each image, (B,) bool by name, whether a score can be made of what the model returned.

    A logit that is NaN or +infinity would be the predicted class; that of a class that is masked out may be -infinity,
    but not the one that is explained.

    Parameters
    ----------
    logits : (B, ...) floating tensor or None
    indices : (B,) or (B, T) int64 tensor or None
    scores : list of T tensors (B,)
        None of them where the classes' logits alone are known.
    """
    flags = {}
    if logits is not None:
        largest = logits.detach()
        while largest.ndim > 1:  # of one number for an image, a GPU would put a single block to work
            largest = largest.amax(dim=tuple(range(2, largest.ndim)) or (1,))
        flags["logits"] = largest < torch.inf
        if indices is not None and not scores:
            scores = list(logits.gather(1, indices.reshape(len(indices), -1)).unbind(dim=1))
    if scores:
        of_targets = torch.stack(scores, dim=1) if len(scores) > 1 else scores[0][:, None]
        flags["score"] = (of_targets.detach().abs() < torch.inf).all(dim=1)
    return flags


def pinned(request: Request, indices: torch.Tensor | None) -> Request:
    """The same request with the predicted classes settled, and known to be in range; None are those of callables."""
    return request if indices is None else replace(request, indices=indices, predicted=None, checked=True)


def check_range(indices: torch.Tensor, classes: int) -> None:
    """Refuse class indices outside of [0, classes).

    They are looked at where they are: those on the host make it wait for no device.

    Raises
    ------
    ValueError
        That names the first one.
    """
    out_of_range = indices[(indices < 0) | (indices >= classes)]
    if out_of_range.numel():
        raise ValueError(
            f"target: class {int(out_of_range[0])} is out of range for {classes} classes (0 to {classes - 1})"
        )


def _of_callables(
    callables: tuple[Score | tuple[Score, ...], ...],
    logits: torch.Tensor | None,
    output: Any,
    per_image: PerImage,
    spatial_dims: int | None,
) -> list[torch.Tensor]:
    rows = [row if isinstance(row, tuple) else (row,) for row in callables]
    per_logits = None if logits is None else logits.unbind()
    parts_of_output: list[Any] | None = None
    by_target: list[list[torch.Tensor]] = [[] for _ in rows[0]]
    for b, row in enumerate(rows):
        for of_target, score in zip(by_target, row):
            if per_logits is not None and not getattr(score, "whole_output", False):
                _check_axes(score, per_logits[b], spatial_dims)
                of_target.append(_scalar(score, per_logits[b], b))
                continue
            if parts_of_output is None:
                if output is None:
                    raise TypeError(
                        f"target: {name_of(score)} looks at the model's whole output; there are only logits here"
                    )
                parts_of_output = samples(output, len(rows), per_image)
            of_target.append(_scalar(score, parts_of_output[b], b))
    # Each target apart, so that its backward goes through its own callables alone.
    return [torch.stack(of_target) for of_target in by_target]


def _check_axes(score: Score, logits: torch.Tensor, spatial_dims: int | None) -> None:
    """Refuse logits of one image with more axes than a target that scores a map of it can know: heads, say."""
    if spatial_dims is None or not getattr(score, "of_positions", False) or logits.ndim - 1 <= spatial_dims:
        return
    name = name_of(score)
    raise TypeError(
        f"target: {name} expected logits (K, ...) of one image with the images' {spatial_dims} spatial axes; got "
        f"shape {tuple(logits.shape)}. Of several heads, give a callable that takes one: lambda logits: "
        f"targets.{name}(...)(logits[0])"
    )


def name_of(score: Score) -> str:
    """What an error calls a callable."""
    return getattr(score, "__name__", type(score).__name__)


def _scalar(score: Score, sample: Any, image: int) -> torch.Tensor:
    value = score(sample)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"target: callable {name_of(score)} must return a scalar tensor; got {got} for image {image}")
    if not value.requires_grad:
        raise ValueError(
            f"target: what callable {name_of(score)} returned for image {image} does not depend on the model's output"
        )
    return value.reshape(())
