"""How alike maps are, pair by pair: correlations, the top positions, and whether all is the same but for arithmetic."""

from __future__ import annotations

import torch

#: The share of a map's positions that are its top ones, as in CASE's test of class sensitivity.
TOP = 0.05
#: How far what is seen again may be from what was explained, as a fraction of the maximum: arithmetic in another order
#: or TF32 stays well below, another image is far beyond. Of half precision so many units in the last place, if more.
TOLERANCE, _UNITS = 1e-2, 8


def pearson(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each pair of maps, (B,) float64; 0 where one of them is the same everywhere.

    NaN where one of them is not finite.
    """
    first, second = first.flatten(1).double(), second.flatten(1).double()
    finite = first.isfinite().all(dim=1) & second.isfinite().all(dim=1)
    # Asked before the mean is taken off, which leaves rounding errors that correlate as they like.
    varied = (first.amax(dim=1) > first.amin(dim=1)) & (second.amax(dim=1) > second.amin(dim=1))
    first = first - first.mean(dim=1, keepdim=True)
    second = second - second.mean(dim=1, keepdim=True)
    scale = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    found = torch.where(varied, (first * second).sum(dim=1) / scale, 0.0).clamp(-1, 1)
    return found.masked_fill(~finite, torch.nan)


def spearman(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation of each pair of maps, (B,) float64; 0 where one of them is the same everywhere.

    NaN where one of them has a NaN, which has no rank. It is ``scipy.stats.spearmanr`` for whole batches on their
    device, where SciPy takes a pair on the host and has NaN for a map that is the same everywhere.
    """
    return pearson(_ranks(first), _ranks(second))


def _ranks(maps: torch.Tensor) -> torch.Tensor:
    """Ranks (B, N) of the values; equal ones share the mean of their ranks."""
    values = maps.flatten(1).contiguous()  # searchsorted warns of anything else
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    ranks = (below + not_above).double() / 2
    return ranks.masked_fill(values.isnan().any(dim=1, keepdim=True), torch.nan)


def agreement(first: torch.Tensor, second: torch.Tensor, top: float = TOP) -> torch.Tensor:
    """The share of the top positions of two maps that they have in common, (B,) float64 in [0, 1].

    Of equal values those that come first in reading order are taken. Positions without evidence are never top ones. NaN
    where one of the maps is empty: it has no top, and to share nothing with it is no merit of the other.

    Parameters
    ----------
    first, second : (B, ...) tensors, >= 0
    top : float
        In (0, 1): the share of a map's positions, rounded down and at least one, that are its top ones.
    """
    first, second = _top(first, top), _top(second, top)
    counts = torch.stack([first.sum(dim=1), second.sum(dim=1)])
    shared = (first & second).sum(dim=1).double() / counts.amax(dim=0)
    return shared.masked_fill((counts == 0).any(dim=0), torch.nan)


def _top(maps: torch.Tensor, share: float) -> torch.Tensor:
    """(B, N) bool: the top positions."""
    values = maps.flatten(1)
    count = max(1, int(share * values.shape[1]))
    best = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, best, True) & (values > 0)


def is_same(again: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether each image's numbers, (B, ...) in both, are those of before, but for arithmetic."""
    if again.shape != before.shape:
        return False
    tolerance = max(TOLERANCE, _UNITS * torch.finfo(before.dtype).eps)
    again, before = again.reshape(len(again), -1).float(), before.reshape(len(before), -1).float()
    # A logit of -infinity masks a class out, and is the same only as itself.
    finite = before.isfinite()
    bound = tolerance * before.masked_fill(~finite, 0.0).abs().amax(dim=1, keepdim=True)
    return bool(torch.where(finite, (again - before).abs() <= bound, again == before).all())
