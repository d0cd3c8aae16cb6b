"""Maps at another size and over their maximum, where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from .axes import INTERPOLATION, last_axes


def upsample(raw_maps: torch.Tensor, size: tuple[int, ...], *, saturation: float | None = None) -> torch.Tensor:
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

    Returns
    -------
    (..., H, W) float32 in [0, 1]
    """
    dims = len(size)
    flat = raw_maps.reshape(-1, 1, *raw_maps.shape[-dims:])
    maps = enlarged(flat, size).reshape(*raw_maps.shape[:-dims], *size)
    return maps if saturation is None else maps * (1 + saturation) / (maps + saturation)


def interpolate(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(N, C, ...) maps at another size: linear along one axis, two or three, ``align_corners=False``."""
    return functional.interpolate(maps, size=tuple(size), mode=INTERPOLATION[len(size)], align_corners=False)


def enlarged(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Maps (N, C, ...), >= 0, at another size and then over their own maximum; a map of zeros stays one."""
    # Scaled first: the sums inside interpolation may overflow next to float32's end. A map of zeros is NaN in between.
    scaled = maps / maps.amax(dim=last_axes(len(size)), keepdim=True)
    return over_maximum(interpolate(scaled, size), len(size))


def over_maximum(maps: torch.Tensor, spatial_dims: int = 2) -> torch.Tensor:
    """Maps (..., h, w), >= 0, over their own maximum; a map of zeros stays one."""
    scaled = maps / maps.amax(dim=last_axes(spatial_dims), keepdim=True)
    # Only 0 / 0 is NaN. Not torch.where: it may bring its scalar from the host, which makes the host wait and can't be
    # in a CUDA graph; and each operator less is one launch less that a small batch waits for.
    return scaled.nan_to_num_(nan=0.0)
