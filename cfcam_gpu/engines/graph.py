"""DBSCAN on a graph that is known: which points are near each other. By NumPy's operators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.cluster_filter import NOISE
from ..core.config import Config
from .pairs import Pairs

#: Neighbours of a point, on average, up to which edges are followed; above it whole rows at once.
_SPARSE = 24


def settle(pairs: Pairs, config: Config) -> tuple[float, NDArray[np.int64]]:
    """DBSCAN's radius and labels (N,).

    Raises
    ------
    InDoubtError
        If too many pairs are too close to call.
    """
    pairs.finish()
    eps = pairs.eps(config)
    return eps, dbscan(pairs.near(eps), config.min_samples_for(len(pairs)))


def dbscan(near: NDArray[np.bool_], min_samples: int) -> NDArray[np.int64]:
    """scikit-learn's labels.

    Parameters
    ----------
    near : (N, N) bool
        Symmetric; each point is near itself.
    min_samples : int

    Returns
    -------
    (N,) int64
        Clusters are numbered by their lowest core point; a border point is in the first cluster that reaches it.
    """
    neighbors = _row_sums(near)
    core = neighbors >= min_samples
    if not core.any():
        return np.full(len(near), NOISE)
    return _by_edges(near, core) if neighbors.sum() <= _SPARSE * len(near) else _by_rows(near, core)


def _row_sums(near: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of a symmetric matrix: down its columns, as many rows at a time as a byte counts."""
    sums = np.zeros(len(near), np.int64)
    for first in range(0, len(near), 255):
        sums += np.add.reduce(near[first : first + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return sums


def _by_edges(near: NDArray[np.bool_], core: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Each core point takes the lowest number that a core point near it has, until none changes."""
    count = len(near)
    ends, others = np.divmod(np.flatnonzero(near), count)
    from_core = core[others]
    ends, others = ends[from_core], others[from_core]
    inside = core[ends]
    one, other = ends[inside], others[inside]
    lowest = np.arange(count)
    while True:
        before = lowest
        lowest = lowest.copy()
        np.minimum.at(lowest, one, before[other])
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            break
    numbers = np.full(count, count)
    numbers[core] = np.unique(lowest[core], return_inverse=True)[1]
    labels = np.full(count, count)
    np.minimum.at(labels, ends, numbers[others])
    labels[labels == count] = NOISE
    return labels


def _by_rows(near: NDArray[np.bool_], core: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Cluster by cluster, from its lowest core point on, all that is near what was found last."""
    labels = np.full(len(near), NOISE)
    free = np.ones(len(near), bool)
    number = 0
    for start in np.flatnonzero(core):
        if not free[start]:
            continue
        found = np.array([start])
        while found.size:
            reached = near[found].any(axis=0) & free
            labels[reached] = number
            free[reached] = False
            found = np.flatnonzero(reached & core)
        number += 1
    return labels
