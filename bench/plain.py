"""Grad-CAM and CF-CAM derived a second time, plainly and slowly: what the benchmarks' gates compare with.

Nothing here comes from cfcam_gpu but the configuration's type, nor from SciPy or scikit-learn; distances, DBSCAN and
the Gaussian filter are written out. float64, NumPy, one image at a time.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cfcam_gpu import Config

Floats = NDArray[np.float64]

#: What this derivation covers: what the presets set, and of that only the options they differ in vary.
_PRESETS = (Config(), Config.paper(), Config.two_level())


class Plain(NamedTuple):
    """One image's raw map (h, w), labels (C,) and eps."""

    map: Floats
    labels: NDArray[np.int64]
    eps: float


def grad_cam(activations: Floats, gradients: Floats) -> Floats:
    """ReLU(sum_k mean(G_k) A_k) of (B, C, h, w): (B, h, w)."""
    weights = gradients.mean(axis=(2, 3), keepdims=True)
    return np.maximum((weights * activations).sum(axis=1), 0.0)


def cf_cam(activations: Floats, gradients: Floats, config: Config) -> Plain:
    """The five steps of arXiv:2504.00060 for one image, (C, h, w), or of two levels' finer one.

    Raises
    ------
    NotImplementedError
        If `config` is no preset: a gate must not pass on something else.
    """
    if config not in _PRESETS:
        raise NotImplementedError(f"bench.plain covers the presets only; got {config}")
    labels, eps = _labels(activations, gradients, config)
    if config.levels == 2:
        evidence = _above_noise(gradients, labels, config) * activations
        return Plain(evidence.sum(axis=0), labels, eps)

    filtered = np.zeros_like(gradients)
    filtered[labels == -2] = gradients[labels == -2]
    for cluster in range(labels.max() + 1):
        filtered[labels == cluster] = _smooth(gradients[labels == cluster].mean(axis=0), config.sigma, "symmetric")
    weights = filtered.mean(axis=(1, 2))
    if config.weighting == "softmax":
        valid = (labels == -2) | (labels >= 0)
        powers = np.where(valid, np.exp(weights - weights[valid].max()), 0.0)
        weights = powers / powers.sum()
    return Plain(np.maximum((weights[:, None, None] * activations).sum(axis=0), 0.0), labels, eps)


def gate(fine: Floats, coarse: Floats, constant: float) -> Floats:
    """Maps (B, h, w) of the finer layer where Grad-CAM of the coarser one (B, h', w') sees the target, too."""
    seen = scale(resize(scale(coarse, from_minimum=False), fine.shape[1:]), from_minimum=False)
    return fine * seen**2 / (seen**2 + constant)


def _labels(activations: Floats, gradients: Floats, config: Config) -> tuple[NDArray[np.int64], float]:
    channels = len(activations)
    profiles = activations.reshape(channels, -1)
    labels = np.full(channels, -3)
    norms = np.sqrt(np.square(profiles).sum(axis=1))
    least = -1.0 if config.dead_threshold is None else config.dead_threshold * norms.max()
    alive = np.flatnonzero(norms > least)
    importance = norms[alive]
    if config.importance == "contribution":
        importance = importance * np.abs(gradients[alive].mean(axis=(1, 2)))
    dominant = importance >= _percentile(np.sort(importance), config.dominant_percentile)
    labels[alive[dominant]] = -2
    rest = alive[~dominant]
    points = profiles[rest] / norms[rest, None] if config.distance == "unit_norm" else profiles[rest]
    distances = np.zeros((len(rest), len(rest)))
    for i, point in enumerate(points):
        distances[i, i + 1 :] = np.sqrt(np.square(points[i + 1 :] - point).sum(axis=1))
    distances += distances.T
    if config.eps_rule == "pair_percentile":
        # Of all ordered pairs, in which every distance stands twice.
        pairs = np.sort(distances[np.triu_indices(len(rest), 1)])
        eps = _percentile(np.repeat(pairs, 2), config.eps_percentile)
        least_near = max(2, int(config.min_samples * len(rest)))
    else:
        eps = float(np.median(np.sort(distances, axis=1)[:, config.eps_neighbor - 1]))
        least_near = int(config.min_samples)
    eps = max(eps, 1e-5)
    labels[rest] = _dbscan(distances <= eps, least_near)
    return labels, eps


def _dbscan(near: NDArray[np.bool_], least: int) -> NDArray[np.int64]:
    """Clusters of points (N,), given which are near each other, themselves included."""
    core = near.sum(axis=1) >= least
    labels = np.full(len(near), -1)
    cluster = 0
    for seed in range(len(near)):
        if labels[seed] >= 0 or not core[seed]:
            continue
        labels[seed] = cluster
        queue = deque([seed])
        while queue:
            for j in np.flatnonzero(near[queue.popleft()] & (labels < 0)):
                labels[j] = cluster
                if core[j]:
                    queue.append(j)
        cluster += 1
    return labels


def _above_noise(gradients: Floats, labels: NDArray[np.int64], config: Config) -> Floats:
    """What of the smoothed gradients (C, h, w) exceeds the noise left in them, told by cluster from the residual."""
    taps = _taps(config.sigma)
    squares, centre = np.square(taps).sum() ** 2, taps.max() ** 2
    smooth = np.stack([_smooth(gradient, config.sigma, "constant") for gradient in gradients])
    inside = _smooth(np.ones(gradients.shape[1:]), config.sigma, "constant")
    left = np.square(gradients - smooth / inside).mean(axis=(1, 2)) * squares / (1 - 2 * centre + squares)
    for label in range(-1, labels.max() + 1):
        if (labels == label).any():
            left[labels == label] = left[labels == label].mean()
    above = np.maximum(smooth - config.noise_floor * np.sqrt(left)[:, None, None], 0.0)
    above[labels == -3] = 0.0
    return above


def _percentile(ascending: Floats, percent: float) -> float:
    rank = percent / 100.0 * (len(ascending) - 1)
    low = int(rank)
    high = min(low + 1, len(ascending) - 1)
    return float(ascending[low] + (ascending[high] - ascending[low]) * (rank - low))


def _taps(sigma: float) -> Floats:
    reach = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    return taps / taps.sum()


def _smooth(image: Floats, sigma: float, beyond: str) -> Floats:
    """A Gaussian, taps out to 4 sigma; `beyond` the borders as ``numpy.pad`` has it. Rows, then columns."""
    taps = _taps(sigma)
    reach = len(taps) // 2
    for _ in range(2):
        wide = np.pad(image, ((reach, reach), (0, 0)), mode=beyond)
        image = sum(tap * wide[k : k + len(image)] for k, tap in enumerate(taps)).T
    return image


def scale(maps: Floats, *, from_minimum: bool) -> Floats:
    """Maps (B, h, w) divided by their maximum, after their minimum is taken off if so asked; flat ones become zero."""
    if from_minimum:
        maps = maps - maps.min(axis=(1, 2), keepdims=True)
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def resize(maps: Floats, size: tuple[int, int]) -> Floats:
    """Bilinear, pixel centres at half integers, borders extended: (B, h, w) to (B, *size)."""
    for axis, length in zip((1, 2), size):
        old = maps.shape[axis]
        where = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        low = where.astype(int)
        part = (where - low).reshape([-1 if a == axis else 1 for a in range(3)])
        after = np.minimum(low + 1, old - 1)
        maps = np.take(maps, low, axis=axis) * (1 - part) + np.take(maps, after, axis=axis) * part
    return maps
