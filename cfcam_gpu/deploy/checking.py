"""An exported file beside the library: how far its maps are from those of engine ``cpu``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..core.axes import last_axes
from ..results.explanation import Explanation
from .description import Check

#: The largest difference of a position, over its map's maximum, and the lowest correlation of two maps.
WORST = 2e-3
LOWEST_CORRELATION = 0.99999
#: The largest difference of a logit, over the image's largest.
LOGITS = 1e-3
#: The same where the model computes in float16 or bfloat16, in which two runtimes round differently.
WORST_OF_HALF = 5e-2
LOWEST_CORRELATION_OF_HALF = 0.999
LOGITS_OF_HALF = 5e-2


@dataclass(frozen=True)
class Played:
    """What a file gave for images; see :meth:`cfcam_gpu.deploy.explanation_graph.ExplanationGraph.forward`."""

    maps: torch.Tensor
    raw_maps: torch.Tensor
    logits: torch.Tensor
    target: torch.Tensor
    empty: torch.Tensor
    converged: torch.Tensor


def compare(
    played: Played,
    expected: Explanation,
    *,
    half: bool,
    against: str,
    nudged: Callable[[list[int]], Iterator[torch.Tensor]],
) -> Check:
    """The figures of a file's maps against the library's.

    Parameters
    ----------
    played : Played
    expected : Explanation
    half : bool
        Whether the model computes in float16 or bfloat16.
    against : str
        What `expected` is of.
    nudged : callable
        Gets numbers of images, and gives the library's maps of them several times, each from images that are moved by a
        few times float32's rounding. Where the library's own map moves as far, two channels are so near a tie of the
        clustering that rounding decides it, and the file is not at fault.

    Raises
    ------
    RuntimeError
        If a class, a logit or an empty map is another, a clustering did not converge, or a map is further off than
        :data:`WORST` or correlates less than :data:`LOWEST_CORRELATION` without being near a tie; the message has the
        images and the figures.
    """
    worst, lowest = (WORST_OF_HALF, LOWEST_CORRELATION_OF_HALF) if half else (WORST, LOWEST_CORRELATION)
    maps, empty = expected.maps.cpu(), expected.empty.cpu()
    if expected.target is not None:
        _same("the explained class", played.target, expected.target.cpu())
    _same("whether the map is empty", played.empty, empty)
    _same("that the clusters converged", played.converged, torch.ones_like(empty))
    dims = len(expected.size)
    differences = torch.maximum(
        difference(played.maps, maps, dims), difference(played.raw_maps, expected.raw_maps.cpu(), dims)
    )
    logits = _of_logits(played.logits, expected.logits)
    if not logits <= (LOGITS_OF_HALF if half else LOGITS):
        raise RuntimeError(
            f"export: the file's logits are not the library's: they differ by {logits:.1e} of the largest. Nothing was "
            "written"
        )
    correlations = _correlations(played.maps, maps, dims)
    # Not `>`: a map of NaN is as wrong as one can be.
    off = [i for i in range(len(maps)) if not (differences[i] <= worst and correlations[i] >= lowest)]
    ties = 0
    if off:
        own = torch.stack([difference(moved, maps[off], dims) for moved in nudged(off)]).amax(dim=0)
        unsure = (own >= differences[off] / 2) & (differences[off] <= WORST_OF_HALF)
        ties = int(unsure.sum())
    found = Check(
        checked=True,
        images=len(maps),
        median=float(differences.median()),
        worst=float(differences.max()),
        correlation=float(correlations.min()),
        logits=logits,
        ties=ties,
        empty=int(empty.flatten(1).any(dim=1).sum()) if empty.ndim > 1 else int(empty.sum()),
        against=against,
    )
    if ties < len(off):
        raise RuntimeError(
            f"export: the file's maps are not the library's: {found}; expected at most {worst:g} and at least "
            f"{lowest:g}. Nothing was written"
        )
    return found


def difference(one: torch.Tensor, other: torch.Tensor, dims: int) -> torch.Tensor:
    """(N,) the largest difference of any position of an image's maps (N, ..., *spatial), over the maximum of `other`.

    Of maps that are empty there it is the maximum of `one`.
    """
    largest = other.amax(dim=last_axes(dims))
    off = (one.cpu() - other).abs().amax(dim=last_axes(dims)) / torch.where(largest > 0, largest, 1.0)
    return off.flatten(1).amax(dim=1) if off.ndim > 1 else off


def _same(what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse a file that tells `what` otherwise than the library."""
    if found.shape != expected.shape:
        raise RuntimeError(f"export: {what} is of shape {tuple(found.shape)} in the file, {tuple(expected.shape)} here")
    others = (found != expected).flatten(1).any(dim=1) if found.ndim > 1 else found != expected
    if bool(others.any()):
        raise RuntimeError(
            f"export: {what} is another in the file than in the library, of image "
            f"{', '.join(map(str, others.nonzero().flatten().tolist()[:8]))}. Nothing was written"
        )


def _of_logits(one: torch.Tensor, other: torch.Tensor | None) -> float:
    """The largest difference of a logit (B, K, ...) over its image's largest; infinities must be the same."""
    assert other is not None  # files give them
    a, b = one.cpu().float().flatten(1), other.cpu().float().flatten(1)
    same = a == b
    largest = b.abs().where(b.isfinite(), 0.0).amax(dim=1, keepdim=True)
    return float(((a - b).abs() / torch.where(largest > 0, largest, 1.0)).where(~same, 0.0).max())


def _correlations(one: torch.Tensor, other: torch.Tensor, dims: int) -> torch.Tensor:
    """(N,) Pearson's of each image's maps (N, ..., *spatial), the lowest of several; 1 where both are constant."""
    a, b = (each.cpu().double().flatten(-dims) for each in (one, other))
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    of_both = a.norm(dim=-1) * b.norm(dim=-1)
    constant = (a.norm(dim=-1) == 0) & (b.norm(dim=-1) == 0)
    found = torch.where(constant, 1.0, (a * b).sum(dim=-1) / torch.where(of_both > 0, of_both, 1.0))
    return found.flatten(1).amin(dim=1) if found.ndim > 1 else found


def check_alone(alone: Sequence[torch.Tensor], together: Played, *, half: bool) -> None:
    """Refuse a file that explains its first image otherwise when it is alone than among others.

    Raises
    ------
    RuntimeError
    """
    maps, _, logits, *_ = alone
    off = difference(maps, together.maps[:1].cpu(), maps.ndim - 1)
    if not (float(off.max()) <= (WORST_OF_HALF if half else WORST)) or not (
        _of_logits(logits, together.logits[:1]) <= (LOGITS_OF_HALF if half else LOGITS)
    ):
        raise RuntimeError(
            "export: the file explains an image otherwise when it is alone than among others, as of a model that "
            "decides by the batch's size; export it with a fixed batch (batch=N, --batch N). Nothing was written"
        )


def in_batches(images: Sequence[int], batch: int | None) -> list[list[int]]:
    """The images' numbers as a file with a fixed batch takes them, the last batch filled up with its last image."""
    if batch is None:
        return [list(images)]
    groups = [list(images[first : first + batch]) for first in range(0, len(images), batch)]
    return [[*group, *group[-1:] * (batch - len(group))] for group in groups]
