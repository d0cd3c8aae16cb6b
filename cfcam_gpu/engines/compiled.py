"""What `pairs`, `graph` and `weighing` do, compiled by numba where it is installed: images side by side on the cores.

NumPy's operators on one image take a twentieth of a millisecond each, so that threads which share Python's lock wait
for it most of the time. These functions hold no lock. They find the same labels and radii to the last bit, by the same
steps; nothing here may be fused or reordered by the compiler, as it is without numba's ``fastmath``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.cluster_filter import noise_left
from ..core.config import Config
from . import compiled_graph
from .compiled_products import pooled_products, smooth_products
from .pairs import InDoubtError, Pairs
from .weighing import Filter, matrices, profile

#: The most neighbours that are kept of each point.
MAX_NEIGHBOR = 16


def factors_of(points: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32], float, float]:
    """As :func:`cfcam_gpu.engines.pairs.factors_of`."""
    left, right = np.empty((2, len(points), points.shape[1] + 2), np.float32)
    unit, largest = compiled_graph.factors(points, left, right)
    return left, right, unit, largest


def settles(config: Config) -> bool:
    """Whether :func:`settle` covers a configuration."""
    return config.eps_rule == "pair_percentile" or config.eps_neighbor - 1 <= MAX_NEIGHBOR


def settle(pairs: Pairs, config: Config) -> tuple[float, NDArray[np.int64]]:
    """As :func:`cfcam_gpu.engines.graph.settle`.

    Raises
    ------
    InDoubtError
    """
    rank, share = pairs.rank(config) if config.eps_rule == "pair_percentile" else (-1, 0.0)
    labels = np.empty(len(pairs), np.int64)
    # No count of neighbours reaches what no int64 holds.
    least = min(config.min_samples_for(len(pairs)), len(pairs) + 1)
    eps = compiled_graph.settle(
        pairs.squares, pairs.points, pairs.unit, pairs.error, rank, share, pairs.neighbor(config), least, labels
    )
    if eps < 0:
        raise InDoubtError
    return float(eps), labels


def weighs(config: Config, smooth: Filter) -> bool:
    """Whether :func:`weigh` covers a configuration and the maps of a filter."""
    if config.combine == "pooled":
        return True
    return config.gradient == "own" and config.sigma > 0 and smooth.by_matrices


def weigh(
    activations: torch.Tensor, gradients: torch.Tensor, labels: torch.Tensor, config: Config, smooth: Filter
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`cfcam_gpu.engines.weighing.weigh`."""
    shape = len(labels), math.prod(smooth.size)
    of_image, of_channels = _in_order(activations.numpy(), shape), labels.numpy()
    maps, weights = np.empty((len(gradients), shape[1])), np.empty((len(gradients), shape[0]))
    for gradient, map_, weight in zip(gradients.numpy(), maps, weights):
        given = of_image, _in_order(gradient, shape), of_channels
        if config.combine == "pooled":
            own, softmax = config.gradient == "own", config.weighting == "softmax"
            pooled_products(*given, profile(smooth).numpy(), own, softmax, map_, weight)
        else:
            positive, floor = config.combine == "positive", float(config.noise_floor)
            left = noise_left(config.sigma, len(smooth.size)) if floor > 0 else 0.0
            smooth_products(*given, *matrices(smooth), left, positive, floor, map_, weight)
    return torch.from_numpy(maps).reshape(-1, *smooth.size), torch.from_numpy(weights)


def _in_order(values: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.ascontiguousarray(values.reshape(shape))


def warm_up() -> None:
    """Compile what there is, or fetch it from the folder where it is kept."""
    values = torch.rand((1, 4, 2, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs, labels = Pairs(values[0].flatten(1).numpy(), factors_of), torch.zeros(4, dtype=torch.int64)
    for config in (Config(), Config.two_level()):
        settle(pairs, config)
        weigh(values[0], values, labels, config, Filter.of(values, config))
