"""Maps at another size and over their maximum, where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch.nn import functional

from .axes import INTERPOLATION, last_axes

#: Of each spatial axis, where the image begins and ends in a map, as shares of the map's length.
Inside: TypeAlias = tuple[tuple[float, float], ...]


def upsample(
    raw_maps: torch.Tensor, size: tuple[int, ...], *, saturation: float | None = None, inside: Inside | None = None
) -> torch.Tensor:
    """Maps in [0, 1] at `size` from raw maps.

    Bilinear (``align_corners=False``), of signals linear and of volumes trilinear, then divided by their own maximum; a
    map without positive evidence stays zero.

    Parameters
    ----------
    raw_maps : (..., h, w) float32, >= 0
    size : (H, W), or (L,) or (D, H, W)
        Its length says how many axes of `raw_maps` are spatial.
    saturation : float, optional
        s > 0: a value x is shown as x (1 + s) / (x + s).
    inside : tuple of (float, float), optional
        The part of a map that the image takes, where a model pads its images; beyond 0 and 1 where it cuts them, the
        larger first where it turns them over. None is all of it.

    Returns
    -------
    (..., H, W) float32 in [0, 1]
    """
    dims = len(size)
    flat = raw_maps.reshape(-1, 1, *raw_maps.shape[-dims:])
    maps = enlarged(flat, size, inside).reshape(*raw_maps.shape[:-dims], *size)
    return maps if saturation is None else maps * (1 + saturation) / (maps + saturation)


def interpolate(maps: torch.Tensor, size: Sequence[int], inside: Inside | None = None) -> torch.Tensor:
    """(N, C, ...) maps at another size: linear along one axis, two or three, ``align_corners=False``.

    With `inside`, only that part of them; what of it lies beyond them is 0.
    """
    if inside is None:
        return functional.interpolate(maps, size=tuple(size), mode=INTERPOLATION[len(size)], align_corners=False)
    for axis, length, (low, high) in zip(range(2, maps.ndim), size, inside):
        side = maps.shape[axis]
        middles = (torch.arange(length, device=maps.device, dtype=maps.dtype) + 0.5) / length
        shares = low + middles * (high - low)
        places = (shares * side - 0.5).clamp(0, side - 1)
        before = places.floor().long()
        share = (places - before).reshape(-1, *(1 for _ in maps.shape[axis + 1 :]))
        after = (before + 1).clamp_max(side - 1)
        there = ((shares >= 0) & (shares <= 1)).to(maps.dtype).reshape(share.shape)
        maps = (maps.index_select(axis, before) * (1 - share) + maps.index_select(axis, after) * share) * there
    return maps


def enlarged(maps: torch.Tensor, size: Sequence[int], inside: Inside | None = None) -> torch.Tensor:
    """Maps (N, C, ...), >= 0, at another size and then over their own maximum; a map of zeros stays one."""
    # Scaled first: the sums inside interpolation may overflow next to float32's end. A map of zeros is NaN in between.
    scaled = maps / maps.amax(dim=last_axes(len(size)), keepdim=True)
    return over_maximum(interpolate(scaled, size, inside), len(size))


def over_maximum(maps: torch.Tensor, spatial_dims: int = 2) -> torch.Tensor:
    """Maps (..., h, w), >= 0, over their own maximum; a map of zeros stays one."""
    scaled = maps / maps.amax(dim=last_axes(spatial_dims), keepdim=True)
    # Only 0 / 0 is NaN. Not torch.where: it may bring its scalar from the host, which makes the host wait and can't be
    # in a CUDA graph; and each operator less is one launch less that a small batch waits for.
    return scaled.nan_to_num_(nan=0.0)
