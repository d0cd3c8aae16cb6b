"""The gate of a map, and maps at another size."""

from __future__ import annotations

import torch

from ...core.axes import last_axes
from ...core.config import Config
from ...core.maps import Inside
from .filters import interpolated


def over_maximum(maps: torch.Tensor, dims: int) -> torch.Tensor:
    """Maps (..., *spatial), >= 0, over their own maximum; a map of zeros stays one, NaN is NaN."""
    largest = maps.amax(last_axes(dims), keepdim=True)
    return maps / torch.where(largest == 0, 1.0, largest)


def enlarged(maps: torch.Tensor, size: tuple[int, ...], inside: Inside | None = None) -> torch.Tensor:
    """As :func:`cfcam_gpu.core.maps.enlarged`, of maps (N, *spatial); NaN stays NaN."""
    sides = tuple(maps.shape[1:])
    scaled = over_maximum(maps, len(size))
    if inside is None and sides == size:
        return scaled
    return over_maximum(interpolated(scaled, size, inside), len(size))


def gate(raw_maps: torch.Tensor, activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> torch.Tensor:
    """As :func:`cfcam_gpu.core.gate.gate`, of maps (N, *spatial); NaN where what gates is not finite.

    Parameters
    ----------
    raw_maps : (N, *spatial) float32
    activations, gradients : (N, C, *spatial') float32
        Of the coarse layer, or of the layer itself where the configuration is gated by its own evidence.
    config : Config
        With a gate.
    """
    assert config.gate is not None
    if config.gate_by == "coarse":
        gradients = gradients.mean(last_axes(gradients.ndim - 2), keepdim=True)
    sums = (gradients * activations).sum(1)
    squared = enlarged(sums.relu(), tuple(raw_maps.shape[1:])).square()
    gated = raw_maps * (squared / (squared + config.gate))
    # A ReLU or a maximum may lose a NaN, a sum does not.
    return where_finite(gated, sums)


def where_finite(maps: torch.Tensor, *evidence: torch.Tensor) -> torch.Tensor:
    """Maps (N, ...), NaN throughout where the sum of one of `evidence` (N, ...) is NaN or infinite."""
    largest = torch.finfo(torch.float32).max
    for values in evidence:
        total = values.flatten(1).sum(1)
        maps = torch.where((total.abs() <= largest).reshape(-1, *(1 for _ in maps.shape[1:])), maps, torch.nan)
    return maps


def shown(
    raw_maps: torch.Tensor, size: tuple[int, ...], *, saturation: float | None = None, inside: Inside | None = None
) -> torch.Tensor:
    """Maps in [0, 1] at `size`, as :func:`cfcam_gpu.core.maps.upsample`.

    Parameters
    ----------
    raw_maps : (N, *spatial) float32, >= 0
    size : tuple of int
    saturation : float, optional
    inside : tuple of (float, float), optional

    Returns
    -------
    (N, *size) float32
        NaN throughout where a raw map has a NaN.
    """
    maps = enlarged(raw_maps, size, inside)
    if saturation is not None:
        maps = maps * (1 + saturation) / (maps + saturation)
    # Their mean, as the sum of a map at float32's end would be infinite.
    return where_finite(maps, raw_maps / raw_maps[0].numel())


def is_empty(raw_maps: torch.Tensor) -> torch.Tensor:
    """(N,) bool: no position of a map (N, *spatial) speaks for the target."""
    return raw_maps.flatten(1).amax(1) <= 0
