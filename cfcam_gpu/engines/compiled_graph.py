"""Points to labels: the product's factors, and DBSCAN on the pairs; compiled by numba.

As `pairs` and `graph` do it by NumPy's operators.
"""

from __future__ import annotations

import math

import numpy as np

from ..core.cluster_filter import MIN_EPS, NOISE
from .compiled_radius import compile_, distance, mark, middle_neighbor, percentile, starts_of, too_many


@compile_
def factors(points, left, right):
    """Fill in both factors; the unit and the largest squared norm. See :func:`cfcam_gpu.engines.pairs.factors_of`."""
    count, dimensions = points.shape
    middle = np.zeros(dimensions)
    for i in range(count):
        for k in range(dimensions):
            middle[k] += points[i, k]
    middle /= count
    norms = np.empty(count)
    largest = 0.0
    for i in range(count):
        norm = 0.0
        for k in range(dimensions):
            norm += (points[i, k] - middle[k]) ** 2
        norms[i] = norm
        largest = norm if norm > largest else largest
    unit = 2.0 ** (math.frexp(math.sqrt(largest))[1])
    for i in range(count):
        norm = norms[i] / unit / unit
        row, column = left[i], right[i]
        for k in range(dimensions):
            coordinate = (points[i, k] - middle[k]) / unit
            row[k] = -2 * coordinate
            column[k] = coordinate
        row[dimensions], row[dimensions + 1] = norm, 1
        column[dimensions], column[dimensions + 1] = 1, norm
    return unit, largest / unit / unit


@compile_
def settle(squares, points, unit, error, rank, share, number, min_samples, labels):
    """DBSCAN's radius; fills in the labels. Negative where too many pairs are in doubt.

    Parameters
    ----------
    squares : (M,) float32
        As :class:`~cfcam_gpu.engines.pairs.Pairs` makes them; changed.
    points : (N, D) float64
    unit, error : float
        Of the pairs.
    rank : int
        Of the decisive distance, or -1 where it is the median of the distances to a neighbour.
    share : float
        How far the radius lies on the way to the next distance.
    number : int
        Of that neighbour; the point itself not counted.
    min_samples : int
    labels : (N,) int64
    """
    starts = starts_of(len(points))
    certain = mark(squares, starts, points)
    if rank >= 0:
        eps = percentile(squares, starts, points, error, certain, rank, share)
    else:
        eps = middle_neighbor(squares, starts, points, error, number)
    if eps < 0:
        return -1.0
    eps = max(eps, MIN_EPS)
    square = min(eps / unit, 3.0) ** 2  # none is above 4
    sure = np.float32(max(square - 1.1 * error, -1.0))
    neighbors = np.empty(len(points), np.int32)
    if not _decide(squares, starts, points, eps, sure, np.float32(square + 1.1 * error), neighbors):
        return -1.0
    _dbscan(squares, starts, sure, neighbors >= min_samples, labels)
    return eps


@compile_
def _decide(squares, starts, points, eps, sure, perhaps, neighbors):
    """Settle what is in doubt: -1 in its place is near, infinite is not. Counts neighbours; False if too many are."""
    count = len(points)
    neighbors[:] = 1
    doubtful = 0
    for i in range(count):
        values = squares[starts[i] + i + 1 : starts[i] + count]
        in_doubt = 0
        for j in range(len(values)):
            in_doubt += (values[j] <= perhaps) & (values[j] > sure)
        if in_doubt > 0:
            doubtful += in_doubt
            if too_many(doubtful, squares):
                return False
            for j in range(len(values)):
                if sure < values[j] <= perhaps:
                    values[j] = -1 if distance(points, i, i + 1 + j) <= eps else np.inf
        later = neighbors[i + 1 :]
        own = 0
        for j in range(len(values)):
            own += values[j] <= sure
        for j in range(len(values)):
            later[j] += values[j] <= sure
        neighbors[i] += own
    return True


@compile_
def _dbscan(squares, starts, sure, core, labels):
    """As :func:`cfcam_gpu.engines.graph.dbscan`; near are pairs whose square is at most `sure`."""
    count = len(core)
    # The lowest core point known to be in the same cluster.
    lowest = np.arange(count, dtype=np.int32)
    for i in range(count):
        if not core[i]:
            continue
        values = squares[starts[i] + i + 1 : starts[i] + count]
        of_core, of_lowest = core[i + 1 :], lowest[i + 1 :]
        own = lowest[i]
        others = 0
        for j in range(len(values)):
            others += (values[j] <= sure) & of_core[j] & (of_lowest[j] != own)
        if others == 0:
            continue
        for j in range(len(values)):
            if values[j] <= sure and of_core[j] and of_lowest[j] != lowest[i]:
                keep, drop = min(of_lowest[j], lowest[i]), max(of_lowest[j], lowest[i])
                for k in range(count):
                    lowest[k] = keep if lowest[k] == drop else lowest[k]
    number = 0
    numbers = np.full(count, count, np.int32)
    for i in range(count):
        if core[i]:
            if lowest[i] == i:
                numbers[i] = number
                number += 1
            else:
                numbers[i] = numbers[lowest[i]]
    for i in range(count):
        values = squares[starts[i] + i + 1 : starts[i] + count]
        of_core, of_numbers = core[i + 1 :], numbers[i + 1 :]
        own = numbers[i]
        if core[i]:
            for j in range(len(values)):
                reached = (values[j] <= sure) & (not of_core[j]) & (of_numbers[j] > own)
                of_numbers[j] = own if reached else of_numbers[j]
        else:
            for j in range(len(values)):
                reached = (values[j] <= sure) & of_core[j] & (of_numbers[j] < own)
                own = of_numbers[j] if reached else own
            numbers[i] = own
    for i in range(count):
        labels[i] = NOISE if numbers[i] == count else numbers[i]
