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

#: What this derivation covers beside `dead_threshold` and `weighting`, the two that the presets set differently.
_COVERED = {
    "importance": "activation",
    "dominant_percentile": 75.0,
    "distance": "euclidean",
    "eps_rule": "pair_percentile",
    "eps_percentile": 25.0,
    "min_samples": 0.05,
    "sigma": 1.0,
    "boundary": "reflect",
    "combine": "pooled",
}


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
    """The five steps of arXiv:2504.00060 for one image, (C, h, w).

    Raises
    ------
    NotImplementedError
        If `config` asks for what is not written out here: a gate must not pass on something else.
    """
    for name, value in _COVERED.items():
        if getattr(config, name) != value:
            raise NotImplementedError(f"bench.plain covers {name}={value!r} only; got {getattr(config, name)!r}")
    if config.dead_threshold not in (None, 0.0):
        raise NotImplementedError(f"bench.plain covers dead_threshold None and 0; got {config.dead_threshold!r}")

    channels = len(activations)
    points = activations.reshape(channels, -1)
    labels = np.full(channels, -3)
    norms = np.sqrt(np.square(points).sum(axis=1))
    alive = np.arange(channels) if config.dead_threshold is None else np.flatnonzero(norms)
    dominant = norms[alive] >= _percentile(np.sort(norms[alive]), 75.0)
    labels[alive[dominant]] = -2
    rest = alive[~dominant]
    labels[rest], eps = _dbscan(points[rest], max(2, int(0.05 * len(rest))))

    filtered = np.zeros_like(gradients)
    filtered[labels == -2] = gradients[labels == -2]
    for cluster in range(labels.max() + 1):
        filtered[labels == cluster] = _smooth(gradients[labels == cluster].mean(axis=0))
    weights = filtered.mean(axis=(1, 2))
    if config.weighting == "softmax":
        valid = (labels == -2) | (labels >= 0)
        powers = np.where(valid, np.exp(weights - weights[valid].max()), 0.0)
        weights = powers / powers.sum()
    return Plain(np.maximum((weights[:, None, None] * activations).sum(axis=0), 0.0), labels, eps)


def _dbscan(points: Floats, min_samples: int) -> tuple[NDArray[np.int64], float]:
    """Labels of `points` (N, D) and the radius: the 25th percentile of the distances of all ordered pairs i != j."""
    count = len(points)
    distances = np.zeros((count, count))
    for i in range(count):
        distances[i, i + 1 :] = np.sqrt(np.square(points[i + 1 :] - points[i]).sum(axis=1))
    pairs = np.sort(distances[np.triu_indices(count, 1)])
    eps = max(_percentile(np.repeat(pairs, 2), 25.0), 1e-5)
    near = distances + distances.T <= eps
    core = near.sum(axis=1) >= min_samples
    labels = np.full(count, -1)
    cluster = 0
    for seed in range(count):
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
    return labels, eps


def _percentile(ascending: Floats, percent: float) -> float:
    rank = percent / 100.0 * (len(ascending) - 1)
    low = int(rank)
    high = min(low + 1, len(ascending) - 1)
    return float(ascending[low] + (ascending[high] - ascending[low]) * (rank - low))


def _smooth(image: Floats) -> Floats:
    """A Gaussian of one pixel, taps out to 4, the image mirrored at its borders; rows, then columns."""
    taps = np.exp(-0.5 * np.square(np.arange(-4.0, 5.0)))
    taps /= taps.sum()
    for _ in range(2):
        wide = np.pad(image, ((4, 4), (0, 0)), mode="symmetric")
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
