"""The Gaussian filter and interpolation, as products with constant matrices: exact for each border and rank.

A matrix of a long axis, as of signals, would be larger than many a network, and is not written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...core.config import Config
from ...core.maps import Inside
from .constants import between, constant, gaussian, linear, mirrored, taps

#: Numbers of a matrix, at most.
_MOST = 2**17


def interpolated(maps: torch.Tensor, size: tuple[int, ...], inside: Inside | None) -> torch.Tensor:
    """As :func:`cfcam_gpu.core.maps.interpolate`, of maps (N, *spatial)."""
    parts: Sequence[tuple[float, float] | None] = inside or [None] * len(size)
    for axis, length, part in zip(range(-len(size), 0), size, parts):
        side = maps.shape[axis]
        found = between(length, side, part)
        if length * side <= _MOST:
            maps = _product(maps, axis, linear(found, side))
            continue
        by_axis = (length, *[1] * (-1 - axis))
        low, high = (maps.index_select(axis, constant(places, maps)) for places in (found.before, found.after))
        both = ((1 - found.share) * found.there, found.share * found.there)
        of_low, of_high = (constant(share.reshape(by_axis), maps) for share in both)
        maps = low * of_low + high * of_high
    return maps


def _product(maps: torch.Tensor, axis: int, matrix: NDArray[Any]) -> torch.Tensor:
    """Maps (..., *size) float32 after one of the last axes was multiplied by a matrix (new, old)."""
    factor = constant(np.ascontiguousarray(matrix.T), maps)
    # A product with the matrix on the left would be one small product for each map.
    return maps @ factor if axis == -1 else (maps.transpose(axis, -1) @ factor).transpose(axis, -1)


def smooth(maps: torch.Tensor, size: tuple[int, ...], config: Config) -> torch.Tensor:
    """Maps (N, C, P) float32, of P positions of this size, after the filter of `config`; as they are if sigma is 0."""
    if config.sigma == 0:
        return maps
    channels = maps.shape[1]
    maps = maps.reshape(-1, channels, *size)
    for axis, length in zip(range(-len(size), 0), size):
        if length * length <= _MOST:
            maps = _product(maps, axis, gaussian(length, config.sigma, config.boundary))
        else:
            maps = _filtered(maps.transpose(axis, -1), config).transpose(axis, -1)
    return maps.reshape(-1, channels, *size).flatten(2)


def _filtered(maps: torch.Tensor, config: Config) -> torch.Tensor:
    """Maps (..., length) after the filter along their last axis, as a convolution."""
    weights = taps(config.sigma)
    reach = len(weights) // 2
    shape = maps.shape
    rows = maps.reshape(-1, 1, shape[-1])
    if config.boundary == "reflect":
        rows = rows.index_select(-1, constant(mirrored(shape[-1], reach), maps))
    else:
        rows = functional.pad(rows, (reach, reach))
    return functional.conv1d(rows, constant(weights.reshape(1, 1, -1), maps)).reshape(shape)
