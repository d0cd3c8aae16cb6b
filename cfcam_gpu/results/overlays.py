"""Maps at the input's size, colours and overlays, all on the device of the map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
import torch
from torch.nn import functional

from ..core.axes import INPUTS, INTERPOLATION, last_axes


def upsample(raw_maps: torch.Tensor, size: tuple[int, ...], *, saturation: float | None = None) -> torch.Tensor:
    """Maps in [0, 1] at `size` from raw maps.

    Bilinear (``align_corners=False``), of signals linear and of volumes trilinear, then divided by their own maximum; a
    map without positive evidence stays zero.

    Parameters
    ----------
    raw_maps : (..., h, w) float32, >= 0
    size : (H, W), or (T,) or (D, H, W)
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


def overlay(maps: torch.Tensor, images: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
    """Maps in colour over their images; the more evidence, the less of the image shows.

    Of a volume, (B, C, D, H, W), each slice along D is drawn. Signals, (B, C, T), are drawn as lines over their map by
    :func:`cfcam_gpu.results.signals.draw`.

    Parameters
    ----------
    maps : (B, H, W) or (B, T, H, W) float32 in [0, 1]
        Of volumes (B, D, H, W) or (B, T, D, H, W).
    images : (B, C, H, W) or (B, C, D, H, W)
        uint8, or floating: values in [0, 1] are taken as they are, an image that goes beyond (after normalisation, say)
        is stretched to [0, 1]. Three channels are colours; of any other number the mean is shown in gray:
        ``images[:, :1]`` shows the first.
    alpha : float in [0, 1]
        How much of the colour shows where the map is 1.
    colormap : str
        A matplotlib colormap.

    Returns
    -------
    (B, H, W, 3) or (B, T, H, W, 3) uint8; of volumes (B, D, H, W, 3) or (B, T, D, H, W, 3)

    Raises
    ------
    TypeError, ValueError
        If the shapes or devices don't match, `alpha` is out of range, or there is no such colormap.
    """
    _check_overlay(maps, images, alpha)
    if images.ndim == 3:
        from . import signals  # matplotlib's figures take a while to import

        return signals.draw(maps, images, alpha=alpha, colormap=colormap)
    colors = _colors(colormap, maps.device)[(maps * 255).round().long()]
    weight = alpha * maps[..., None]
    background = _unit_range(images).movedim(1, -1)
    if maps.ndim == images.ndim:
        background = background[:, None]
    return ((1 - weight) * background + weight * colors).mul(255).round().to(torch.uint8)


def _check_overlay(maps: torch.Tensor, images: torch.Tensor, alpha: float) -> None:
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a torch tensor; got {type(images).__name__}")
    dims = images.ndim - 2 if images.ndim - 2 in INPUTS else 2
    wanted = (len(maps), *maps.shape[-dims:])
    if (len(images), *images.shape[2:]) != wanted or images.numel() == 0 or maps.ndim - dims not in (1, 2):
        axes = INPUTS[dims].strip("()").split(", ")
        raise ValueError(
            f"images: expected {INPUTS[dims]} with {', '.join([axes[0], *axes[2:]])} = {wanted}, as the maps; got "
            f"{tuple(images.shape)}"
        )
    if images.device != maps.device:
        raise ValueError(f"images: expected device '{maps.device}', as the maps; got '{images.device}'")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images: expected uint8 or a floating dtype; got {images.dtype}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: expected a number in [0, 1]; got {alpha!r}")


def _unit_range(images: torch.Tensor) -> torch.Tensor:
    whole, images = images.dtype == torch.uint8, images.detach().float()
    if images.shape[1] not in (1, 3):
        images = images.mean(dim=1, keepdim=True)
    if whole:
        return images / 255
    axes = tuple(range(1, images.ndim))
    low = images.amin(dim=axes, keepdim=True).clamp(max=0.0)
    high = images.amax(dim=axes, keepdim=True).clamp(min=1.0)
    return (images - low) / (high - low)


@cache
def _colors(name: str, device: torch.device) -> torch.Tensor:
    """(256, 3) float32; kept on the device, because the host would wait for each copy."""
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap: matplotlib has none called {name!r}; turbo, inferno and viridis are common")
    table = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return torch.as_tensor(table, dtype=torch.float32, device=device)
