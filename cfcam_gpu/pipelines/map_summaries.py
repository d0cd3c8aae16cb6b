"""What a map looks like in a few numbers, so that maps can be searched without being opened."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class MapSummaries(NamedTuple):
    """Of B maps, on their device.

    Parameters
    ----------
    area : (B,) float32
        Share of the positions whose value is at least 0.5, half of the maximum that every map has which isn't empty.
    centre : (B, n) float32
        Centre of mass along each of the n spatial axes, in the maps' order, as a share of the axis' length; NaN for an
        empty map.
    entropy : (B,) float32
        Shannon's, of the map over its sum, as a share of the greatest that so many positions can have, in [0, 1]: near
        0 where all is in one place, 1 where it is the same everywhere. NaN for an empty map, or one of one position.
    """

    area: torch.Tensor
    centre: torch.Tensor
    entropy: torch.Tensor


def summarised(maps: torch.Tensor) -> MapSummaries:
    """The numbers of a batch; the host waits for nothing.

    Parameters
    ----------
    maps : (B, *spatial) float32
        In [0, 1].
    """
    flat, axes = maps.flatten(1), range(1, maps.ndim)
    total = flat.sum(dim=1)  # of an empty map 0, by which all else becomes NaN
    # -sum p log p of p = map / total, without a pass that divides.
    entropy = total.log() - torch.xlogy(flat, flat).sum(dim=1) / total
    greatest = math.log(flat.shape[1]) if flat.shape[1] > 1 else math.nan
    return MapSummaries(
        area=(flat >= 0.5).sum(dim=1).to(maps.dtype) / flat.shape[1],
        centre=torch.stack([_moment(maps, axis) / total for axis in axes], dim=1),
        entropy=(entropy / greatest).clamp(0, 1),
    )


def _moment(maps: torch.Tensor, axis: int) -> torch.Tensor:
    """(B,) sum of the places along an axis, as shares of its length, weighted by a map."""
    others = tuple(other for other in range(1, maps.ndim) if other != axis)
    along = maps.sum(dim=others) if others else maps
    length = maps.shape[axis]
    middles = (torch.arange(length, device=maps.device, dtype=maps.dtype) + 0.5) / length
    return (along * middles).sum(dim=1)
