"""Correlations of maps, pair by pair."""

from __future__ import annotations

import torch


def pearson(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each pair of maps, (B,) float64; 0 where one of them is the same everywhere."""
    first, second = first.flatten(1).double(), second.flatten(1).double()
    # Asked before the mean is taken off, which leaves rounding errors that correlate as they like.
    varied = (first.amax(dim=1) > first.amin(dim=1)) & (second.amax(dim=1) > second.amin(dim=1))
    first = first - first.mean(dim=1, keepdim=True)
    second = second - second.mean(dim=1, keepdim=True)
    scale = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    return torch.where(varied, (first * second).sum(dim=1) / scale, 0.0).clamp(-1, 1)


def spearman(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation of each pair of maps, (B,) float64; 0 where one of them is the same everywhere."""
    return pearson(_ranks(first), _ranks(second))


def _ranks(maps: torch.Tensor) -> torch.Tensor:
    """Ranks (B, N) of the values; equal ones share the mean of their ranks."""
    values = maps.flatten(1).contiguous()  # searchsorted warns of anything else
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above).double() / 2
