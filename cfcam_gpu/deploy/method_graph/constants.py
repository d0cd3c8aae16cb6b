"""What of the method does not depend on the images, computed by NumPy before the graph is made."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ...core.cluster_filter import percentile_rank
from ...core.config import Config

_SCIPY_BOUNDARY = {"reflect": "reflect", "zero": "constant"}


def constant(values: NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    """A constant of the graph, on the device of `like`.

    From NumPy each time: a tensor that was made while a graph is traced would be of no use to the next one.
    """
    return torch.from_numpy(values).to(like.device)


def gaussian(length: int, sigma: float, boundary: str) -> NDArray[np.float32]:
    """(length, length) float32, symmetric: the Gaussian filter along one axis as a product."""
    rows = ndimage.gaussian_filter1d(np.eye(length), sigma, 0, mode=_SCIPY_BOUNDARY[boundary], truncate=4.0)
    found: NDArray[np.float32] = rows.astype(np.float32)
    return found


def taps(sigma: float) -> NDArray[np.float32]:
    """(2 r + 1,) float32: the Gaussian filter's own weights, out to 4 sigma."""
    reach = int(4 * sigma + 0.5)
    middle = np.zeros(2 * reach + 1)
    middle[reach] = 1.0
    found = ndimage.gaussian_filter1d(middle, sigma, mode="constant", truncate=4.0)
    return np.asarray(found, np.float32)


def mirrored(length: int, reach: int) -> NDArray[np.int64]:
    """(length + 2 reach,) int64: an axis continued beyond its ends by its mirror image."""
    found: NDArray[np.int64] = np.pad(np.arange(length), reach, mode="symmetric")
    return found


def smoothed_ones(size: tuple[int, ...], sigma: float, boundary: str) -> NDArray[np.float64]:
    """`size` float64: a map of ones after the filter. Over the number of positions, what each counts for in a mean."""
    ones = np.ones(size)
    for axis in range(len(size)):
        ones = ndimage.gaussian_filter1d(ones, sigma, axis, mode=_SCIPY_BOUNDARY[boundary], truncate=4.0)
    return ones


class Between(NamedTuple):
    """Where each place of a longer axis lies between two of a shorter one, (length,) each.

    ``after`` takes part by ``share``, ``before`` by the rest of one; ``there`` is 0 where it lies beyond the map.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    share: NDArray[np.float32]
    there: NDArray[np.float32]


def between(length: int, side: int, inside: tuple[float, float] | None = None) -> Between:
    """:func:`cfcam_gpu.core.maps.interpolate` of an axis of `side`, in float32 as there: rounding is the same."""
    middles = np.arange(length, dtype=np.float32) + np.float32(0.5)
    there = np.ones(length, np.float32)
    if inside is None:
        places = middles * (np.float32(side) / np.float32(length)) - np.float32(0.5)
    else:
        low, high = inside
        shares = np.float32(low) + middles / np.float32(length) * np.float32(high - low)
        there = ((shares >= 0) & (shares <= 1)).astype(np.float32)
        places = shares * np.float32(side) - np.float32(0.5)
    places = np.clip(places, 0, side - 1)
    before = np.floor(places).astype(np.int64)
    return Between(before, np.minimum(before + 1, side - 1), (places - before).astype(np.float32), there)


def linear(found: Between, side: int) -> NDArray[np.float32]:
    """(length, side) float32: the same as a product."""
    matrix, rows = np.zeros((len(found.before), side), np.float32), np.arange(len(found.before))
    np.add.at(matrix, (rows, found.before), 1 - found.share)
    np.add.at(matrix, (rows, found.after), found.share)
    return matrix * found.there[:, None]


class Ranks:
    """What depends on how many channels are alive, or clustered, by that number: 0 to `channels`.

    Parameters
    ----------
    config : Config
    channels : int

    Attributes
    ----------
    dominant : (channels + 1,) int64
        By the number of live channels: of the least important dominant one the rank from above, counted from 0.
    most_dominant, most_clustered : int
        So many ranks from above are asked for, at most; so many channels are clustered, at most.
    min_samples : (most_clustered + 1,) int64
        By the number of clustered channels; above all of them it is one more.
    pair : (most_clustered + 1,) int64
        By that number, which of all squared distances in order, of an image's (R, R), decides by its percentile.
    """

    def __init__(self, config: Config, channels: int) -> None:
        # An importance at or above a number between two neighbours is one at or above the upper of them.
        share = config.dominant_percentile / 100.0
        below = [math.ceil(share * (alive - 1)) if alive else 0 for alive in range(channels + 1)]
        self.dominant = np.array([max(alive - 1 - less, 0) for alive, less in enumerate(below)])
        self.most_dominant = int(self.dominant.max()) + 1
        self.most_clustered = max(below)
        counts = range(self.most_clustered + 1)
        self.min_samples = np.array([min(config.min_samples_for(n), self.most_clustered + 1) for n in counts])
        # A distance at or below a number between two neighbours in order is one at or below the lower of them. The
        # diagonal's zeros come first, then each pair twice.
        pairs = [n + 2 * percentile_rank(math.comb(n, 2), config.eps_percentile)[0] if n > 1 else 0 for n in counts]
        self.pair = np.array(pairs)
