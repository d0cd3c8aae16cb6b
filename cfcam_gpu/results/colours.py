"""Maps in colour over images and slices, on the device of the map."""

from __future__ import annotations

from functools import cache

import matplotlib
import numpy as np
import torch


def blend(maps: torch.Tensor, images: torch.Tensor, *, alpha: float, colormap: str) -> torch.Tensor:
    """Maps (B, ..., H, W) or (B, T, ..., H, W) in colour over images (B, C, ..., H, W), which fit: (..., 3) uint8.

    See :func:`cfcam_gpu.results.overlay`, which checks what it is given.
    """
    colors = in_colour(maps, colormap)
    weight = alpha * maps[..., None]
    background = unit_range(images).movedim(1, -1)
    if maps.ndim == images.ndim:
        background = background[:, None]
    return ((1 - weight) * background + weight * colors).mul(255).round().to(torch.uint8)


def in_colour(maps: torch.Tensor, colormap: str) -> torch.Tensor:
    """The colours of maps (...) in [0, 1]: (..., 3) float32 in [0, 1].

    Raises
    ------
    ValueError
        If matplotlib has no such colormap.
    """
    return _colors(colormap, maps.device)[(maps * 255).round().long()]


def unit_range(images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, ...) as (B, 1 or 3, ...) float32 in [0, 1], as an overlay shows them."""
    integers, images = images.dtype == torch.uint8, images.detach().float()
    if images.shape[1] not in (1, 3):
        images = images.mean(dim=1, keepdim=True)
    if integers:
        return images / 255
    unknown = ~images.isfinite().all(dim=1, keepdim=True)
    images = images.masked_fill(unknown, 0.0)
    axes = tuple(range(1, images.ndim))
    low = images.amin(dim=axes, keepdim=True).clamp(max=0.0)
    high = images.amax(dim=axes, keepdim=True).clamp(min=1.0)
    return ((images - low) / (high - low)).masked_fill(unknown, 0.0)


def check(name: str) -> None:
    """Refuse a colormap that matplotlib has none of.

    Raises
    ------
    ValueError
    """
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap: matplotlib has none called {name!r}; turbo, inferno and viridis are common")


@cache
def _colors(name: str, device: torch.device) -> torch.Tensor:
    """(256, 3) float32; kept on the device, because the host would wait for each copy."""
    check(name)
    table = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return torch.as_tensor(table, dtype=torch.float32, device=device)
