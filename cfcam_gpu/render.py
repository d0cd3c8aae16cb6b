"""Maps at the input's size, colours and overlays, all on the device of the map."""

from __future__ import annotations

from functools import cache

import matplotlib
import numpy as np
import torch
from torch.nn import functional


def upsample(raw_maps: torch.Tensor, size: tuple[int, ...], *, saturation: float | None = None) -> torch.Tensor:
    """Maps in [0, 1] at `size` from raw maps.

    Bilinear (``align_corners=False``), then divided by their own maximum; a map without positive evidence stays zero.

    Parameters
    ----------
    raw_maps : (..., h, w) float32, >= 0
    size : (H, W)
    saturation : float, optional
        s > 0: a value x is shown as x (1 + s) / (x + s).

    Returns
    -------
    (..., H, W) float32 in [0, 1]
    """
    flat = raw_maps.reshape(-1, 1, *raw_maps.shape[-2:])
    # Scaled first: the sums inside bilinear interpolation may overflow next to float32's end.
    flat = over_maximum(flat)
    large = functional.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    maps = over_maximum(large).reshape(*raw_maps.shape[:-2], *size)
    return maps if saturation is None else maps * (1 + saturation) / (maps + saturation)


def over_maximum(maps: torch.Tensor) -> torch.Tensor:
    """Maps (..., h, w), >= 0, over their own maximum; a map of zeros stays one."""
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    # Not torch.where: it may bring its scalar from the host, which makes the host wait and can't be in a CUDA graph.
    flat = ~(peak > 0)
    return (maps / peak.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def overlay(maps: torch.Tensor, images: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
    """Maps in colour over their images; the more evidence, the less of the image shows.

    Parameters
    ----------
    maps : (B, H, W) or (B, T, H, W) float32 in [0, 1]
    images : (B, 3, H, W) or (B, 1, H, W)
        uint8, or floating: values in [0, 1] are taken as they are, an image that goes beyond (after normalisation, say)
        is stretched to [0, 1].
    alpha : float in [0, 1]
        How much of the colour shows where the map is 1.
    colormap : str
        A matplotlib colormap.

    Returns
    -------
    (B, H, W, 3) or (B, T, H, W, 3) uint8

    Raises
    ------
    TypeError, ValueError
        If the shapes or devices don't match, `alpha` is out of range, or there is no such colormap.
    """
    _check_overlay(maps, images, alpha)
    colors = _colors(colormap, maps.device)[(maps * 255).round().long()]
    weight = alpha * maps[..., None]
    background = _unit_range(images).movedim(1, -1)
    if maps.ndim == 4:
        background = background[:, None]
    return ((1 - weight) * background + weight * colors).mul(255).round().to(torch.uint8)


def _check_overlay(maps: torch.Tensor, images: torch.Tensor, alpha: float) -> None:
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a torch tensor; got {type(images).__name__}")
    wanted = (len(maps), *maps.shape[-2:])
    if images.ndim != 4 or images.shape[1] not in (1, 3) or (len(images), *images.shape[-2:]) != wanted:
        raise ValueError(
            f"images: expected (B, 3, H, W) or (B, 1, H, W) with B, H, W = {wanted}, as the maps; got "
            f"{tuple(images.shape)}"
        )
    if images.device != maps.device:
        raise ValueError(f"images: expected device '{maps.device}', as the maps; got '{images.device}'")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images: expected uint8 or a floating dtype; got {images.dtype}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: expected a number in [0, 1]; got {alpha!r}")


def _unit_range(images: torch.Tensor) -> torch.Tensor:
    if images.dtype == torch.uint8:
        return images.float() / 255
    images = images.detach().float()
    low = images.amin(dim=(1, 2, 3), keepdim=True).clamp(max=0.0)
    high = images.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)
    return (images - low) / (high - low)


@cache
def _colors(name: str, device: torch.device) -> torch.Tensor:
    """(256, 3) float32; kept on the device, because the host would wait for each copy."""
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap: matplotlib has none called {name!r}; turbo, inferno and viridis are common")
    table = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return torch.as_tensor(table, dtype=torch.float32, device=device)
