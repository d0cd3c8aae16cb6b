"""Steps 3 to 5 on the host: filtered gradients, weights and maps, by torch's operators in float64."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ..core.cluster_filter import DEAD, DOMINANT, NOISE, noise_left
from ..core.config import Config

#: The longest axis that is filtered by a matrix.
_LONGEST = 128
_SCIPY_BOUNDARY = {"reflect": "reflect", "zero": "constant"}


class Filter(NamedTuple):
    """The Gaussian filter of maps (*spatial), as :func:`cfcam_gpu.core.cluster_filter.filter_gradients` has it.

    Parameters
    ----------
    size : tuple of int
    sigma : float
    boundary : {"reflect", "zero"}
    """

    size: tuple[int, ...]
    sigma: float
    boundary: str

    @classmethod
    def of(cls, gradients: torch.Tensor, config: Config) -> Filter:
        """For gradients (T, C, *spatial)."""
        return cls(tuple(gradients.shape[2:]), float(config.sigma), config.boundary)

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (..., *spatial) float64, smoothed along each spatial axis."""
        if self.sigma == 0:
            return maps
        for axis, length in zip(range(-len(self.size), 0), self.size):
            if length > _LONGEST:
                smooth = ndimage.gaussian_filter1d(
                    maps.numpy(), self.sigma, axis, mode=_SCIPY_BOUNDARY[self.boundary], truncate=4.0
                )
                maps = torch.from_numpy(smooth)
            elif axis == -1:
                maps = maps @ _matrix(length, self.sigma, self.boundary).T
            else:
                flat = maps.flatten(axis + 1)
                maps = (_matrix(length, self.sigma, self.boundary) @ flat).reshape(maps.shape)
        return maps

    @property
    def by_matrices(self) -> bool:
        """Whether :func:`matrices` has them: of maps of one axis or two, none of them long."""
        return len(self.size) <= 2 and max(self.size) <= _LONGEST


@lru_cache(64)
def matrices(smooth: Filter) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The filter of each axis, (h, h) and (w, w), both symmetric, and a map of ones smoothed, (h, w).

    Of a signal h is 1.
    """
    height, width = (1, *smooth.size)[-2:]
    rows = np.ones((1, 1)) if len(smooth.size) == 1 else _matrix(height, smooth.sigma, smooth.boundary).numpy()
    columns = _matrix(width, smooth.sigma, smooth.boundary).numpy()
    return rows, columns, inside(smooth).reshape(height, width).numpy()


@lru_cache(8)
def inside(smooth: Filter) -> torch.Tensor:
    """(*spatial): a map of ones, smoothed."""
    return smooth(torch.ones(smooth.size, dtype=torch.float64))


def profile(smooth: Filter) -> torch.Tensor:
    """(P,): what each position counts for in the mean of a smoothed map."""
    # The filter along an axis is symmetric, and so what a position gives to others is what it gets of ones.
    return inside(smooth).flatten() / prod(smooth.size)


@lru_cache(64)
def _matrix(length: int, sigma: float, boundary: str) -> torch.Tensor:
    """(length, length): the filter along one axis."""
    rows = ndimage.gaussian_filter1d(np.eye(length), sigma, 0, mode=_SCIPY_BOUNDARY[boundary], truncate=4.0)
    return torch.from_numpy(rows)


def weigh(
    activations: torch.Tensor, gradients: torch.Tensor, labels: torch.Tensor, config: Config, smooth: Filter
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`cfcam_gpu.core.cluster_filter.weigh` gives of one image and its T targets, without the map's ReLU.

    Parameters
    ----------
    activations : (C, *spatial) float64
    gradients : (T, C, *spatial) float64
    labels : (C,) int64
    config : Config
    smooth : Filter
        Of these gradients.

    Returns
    -------
    maps : (T, *spatial) float64
    weights : (T, C) float64
    """
    if config.combine == "pooled":
        weights = _pooled(gradients, labels, config, smooth)
        return (weights @ activations.flatten(1)).reshape(-1, *smooth.size), weights
    filtered = _filtered(gradients, labels, config, smooth)
    weights = filtered.flatten(2).mean(dim=2)
    return filtered.mul_(activations).sum(dim=1), weights


def _pooled(gradients: torch.Tensor, labels: torch.Tensor, config: Config, smooth: Filter) -> torch.Tensor:
    """Weights (T, C), of which only the means of the filtered gradients are needed."""
    flat = gradients.flatten(2)
    weights = flat @ profile(smooth)
    if config.gradient == "own":
        weights[:, labels == DEAD] = 0.0
    else:
        of_dominant = torch.where(labels == DOMINANT, flat.mean(dim=2), 0.0)
        weights = torch.where(labels >= 0, _group_means(weights, labels, lowest=0), of_dominant)
    if config.weighting == "softmax":
        valid = (labels == DOMINANT) | (labels >= 0)
        # Where no channel is valid, the softmax is NaN.
        weights = weights.masked_fill(~valid, -torch.inf).softmax(dim=1).nan_to_num_(nan=0.0)
    return weights


def _filtered(gradients: torch.Tensor, labels: torch.Tensor, config: Config, smooth: Filter) -> torch.Tensor:
    """What multiplies the activations position by position, (T, C, *spatial)."""
    if config.gradient == "own":
        filtered = smooth(gradients) if config.sigma > 0 else gradients.clone()
        filtered[:, labels == DEAD] = 0.0
    else:
        filtered = torch.where(_by_channel(labels == DOMINANT, gradients), gradients, 0.0)
        clustered = labels >= 0
        means = _means(gradients[:, clustered], labels[clustered])
        filtered[:, clustered] = smooth(means)[:, labels[clustered]]
    if config.combine == "positive":
        if config.noise_floor > 0:
            filtered -= _by_channel(_noise_floor(gradients, filtered, labels, config, smooth), filtered)
        filtered.clamp_(min=0.0)
    return filtered


def _noise_floor(
    gradients: torch.Tensor, filtered: torch.Tensor, labels: torch.Tensor, config: Config, smooth: Filter
) -> torch.Tensor:
    """As :func:`cfcam_gpu.core.cluster_filter.noise_floor`, (T, C)."""
    residual = torch.addcdiv(gradients, filtered, inside(smooth), value=-1).flatten(2)
    variance = residual.square_().mean(dim=2).mul_(noise_left(config.sigma, len(smooth.size)))
    # The noise channels are a group like a cluster.
    shared = _group_means(variance, labels, lowest=NOISE)
    return torch.where(labels >= NOISE, shared, variance).sqrt_().mul_(config.noise_floor)


def _group_means(values: torch.Tensor, labels: torch.Tensor, *, lowest: int) -> torch.Tensor:
    """Values (T, C), where the label is `lowest` or above the mean of the channels with that label."""
    chosen = labels >= lowest
    groups = labels[chosen] - lowest
    found = values.clone()
    if groups.numel():
        found[:, chosen] = _means(values[:, chosen], groups)[:, groups]
    return found


def _means(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Means (T, K, ...) of values (T, N, ...) over each of K groups (N,); of an empty one NaN."""
    members = torch.bincount(groups)
    sums = values.new_zeros((len(values), len(members), *values.shape[2:])).index_add_(1, groups, values)
    return sums / members.reshape(-1, *(1 for _ in values.shape[2:]))


def _by_channel(values: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Values (..., C) in a shape that broadcasts over maps (T, C, *spatial)."""
    return values.reshape(*values.shape, *(1 for _ in maps.shape[2:]))
