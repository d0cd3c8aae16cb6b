"""DBSCAN's radius from approximate squared distances of pairs; compiled by numba.

The steps are those of :class:`cfcam_gpu.engines.pairs.Pairs`, which tells what `squares`, `unit` and `error` are. Rows
of `squares` are found by `starts`, see :func:`starts_of`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .pairs import BAND, DOUBTFUL

#: Nothing is fused or reordered without numba's ``fastmath``: distances are SciPy's to the last bit.
compile_ = njit(nogil=True, cache=True)

#: Squares that are looked at together before each by itself.
_BLOCK = 64
_SAMPLE = 1024


@compile_
def starts_of(count):
    """Where each point's row begins, if it began with the pair of point 0: row i, column j is at starts[i] + j."""
    starts = np.empty(count, np.int64)
    at = 0
    for first in range(0, count, BAND):
        width = count - first
        for i in range(first, min(first + BAND, count)):
            starts[i] = at - first
            at += width
    return starts


@compile_
def mark(squares, starts, points):
    """Mark what is no pair, and pairs at the origin; how many those are."""
    count, dimensions = points.shape
    at_origin = np.zeros(count, np.bool_)
    for i in range(count):
        k = 0
        while k < dimensions and points[i, k] == 0:
            k += 1
        at_origin[i] = k == dimensions
    origins = 0
    for i in range(count):
        row = starts[i]
        squares[row + i // BAND * BAND : row + i + 1] = np.inf
        if at_origin[i]:
            origins += 1
            for j in range(i + 1, count):
                if at_origin[j]:
                    squares[row + j] = -1
    return origins * (origins - 1) // 2


@compile_
def distance(points, i, j):
    """As SciPy's ``pdist`` has it."""
    total = 0.0
    for k in range(points.shape[1]):
        difference = points[i, k] - points[j, k]
        total += difference * difference
    return math.sqrt(total)


@compile_
def too_many(doubtful, squares):
    """Whether the oracle is quicker than measuring so many pairs."""
    return doubtful > max(64.0, DOUBTFUL * squares.size)


@compile_
def _count_below(values, bound):
    count = 0
    for i in range(values.size):
        count += values[i] < bound
    return count


@compile_
def percentile(squares, starts, points, error, certain, rank, share):
    """The distance at a rank, `share` of the way to the next; negative where too many pairs are in doubt."""
    count = len(points)
    last = min(rank + 1, count * (count - 1) // 2 - 1)
    if last < certain:
        return 0.0
    if rank < certain:
        low, high = 0.0, _ranked(squares, starts, points, error, certain, last, last)[0]
    else:
        low, high = _ranked(squares, starts, points, error, certain, rank, last)
    if low < 0 or high < 0:
        return -1.0
    return low + (high - low) * share if share > 0 else low


@compile_
def _ranked(squares, starts, points, error, certain, rank, last):
    """The distances of two ranks, none of which is certain; negative where too many pairs are in doubt."""
    slack = np.float32(2.1 * error)
    low, below, high = _bracket(squares, rank, last)
    low_edge = max(np.float32(low - slack), np.float32(-0.5))
    high_edge = np.float32(high + slack)
    places = _within(squares, low_edge, high_edge)
    between = np.sort(squares[places])
    if low_edge > -0.5:
        below -= _count_below(between, low)
    else:
        below = certain
    first, second = between[rank - below], between[last - below]
    below += _count_below(between, first - slack)
    chosen = 0
    for value in between:
        chosen += first - slack <= value <= second + slack
    if too_many(chosen, squares):
        return -1.0, -1.0
    distances = np.empty(chosen)
    at = 0
    for place in places:
        if first - slack <= squares[place] <= second + slack:
            i = _row_of(starts, place)
            distances[at] = distance(points, i, place - starts[i])
            at += 1
    distances.sort()
    return distances[rank - below], distances[last - below]


@compile_
def _row_of(starts, place):
    """The row that a place is in. Rows of a band begin before its first point, so they are counted from there."""
    count = len(starts)
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if starts[middle] + middle // BAND * BAND <= place:
            low = middle
        else:
            high = middle - 1
    return low


@compile_
def _bracket(values, first, last):
    """As :func:`cfcam_gpu.engines.pairs.bracket`."""
    size = min(_SAMPLE, values.size)
    sample = np.empty(size, np.float32)
    for i in range(size):
        sample[i] = values[int((i * 0.6180339887498949 % 1.0) * values.size)]
    sample.sort()
    spread = 2.0 * math.sqrt(size)
    low, below, high, through = np.float32(-np.inf), 0, np.float32(np.inf), values.size
    share = size / values.size
    for side in range(2):
        place = int(first * share - spread) if side == 0 else int(last * share + spread) + 1
        if 0 <= place < size:
            low, below, high, through = _cut(values, sample[place], first, last, low, below, high, through)
    for _ in range(3):
        between = through - below
        if between < max(1024, values.size // 500) or not (0 <= low < high < np.inf):
            break
        width, start = high - low, low
        lower, upper = (first - below) / between - 0.05, (last + 1 - below) / between + 0.05
        for side in range(2):
            part = lower if side == 0 else upper
            if 0 < part < 1:
                bound = np.float32(start + width * part)
                low, below, high, through = _cut(values, bound, first, last, low, below, high, through)
    return low, below, high


@compile_
def _cut(values, bound, first, last, low, below, high, through):
    """The bracket, narrowed to one side of a value where the ranks are on that side alone."""
    below_it = _count_below(values, bound)
    if below_it <= first:
        low, below = bound, below_it
    elif below_it > last:
        high, through = bound, below_it
    return low, below, high, through


@compile_
def _within(values, low, high):
    """Where values are between two bounds, both included."""
    found = np.empty(1024, np.int64)
    count = 0
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        hits = 0
        for i in range(part.size):
            hits += (part[i] >= low) & (part[i] <= high)
        if hits == 0:
            continue
        if count + hits > found.size:
            more = np.empty(2 * (count + hits), np.int64)
            more[:count] = found[:count]
            found = more
        for i in range(part.size):
            if low <= part[i] <= high:
                found[count] = start + i
                count += 1
    return found[:count]


@compile_
def middle_neighbor(squares, starts, points, error, number):
    """The median of the points' distances to their neighbours of this number; negative where too much is in doubt."""
    count = len(points)
    slack = np.float32(2.1 * error)
    nearest = np.full((count, number), np.float32(np.inf))
    for i in range(count):
        row = starts[i]
        farthest = nearest[i, number - 1]
        for j in range(i + 1, count):
            square = squares[row + j]
            if square < farthest:
                _insert(nearest[i], square)
                farthest = nearest[i, number - 1]
            if square < nearest[j, number - 1]:
                _insert(nearest[j], square)
    reach = nearest[:, number - 1].copy()
    ordered = np.sort(reach)
    one, other = (count - 1) // 2, count // 2
    low, high = ordered[one], ordered[other]
    below = _count_below(ordered, low - slack)
    doubtful = 0
    middle = np.empty(count)
    found = 0
    of_row = np.empty(count)
    for i in range(count):
        if not low - slack <= reach[i] <= high + slack:
            continue
        if reach[i] == -1:
            middle[found] = 0.0
            found += 1
            continue
        others = 0
        for j in range(count):
            if j != i and squares[starts[min(i, j)] + max(i, j)] <= reach[i] + slack:
                of_row[others] = distance(points, i, j)
                others += 1
        doubtful += others
        if too_many(doubtful, squares):
            return -1.0
        middle[found] = np.sort(of_row[:others])[number - 1]
        found += 1
    settled = np.sort(middle[:found])
    return (settled[one - below] + settled[other - below]) / 2


@compile_
def _insert(ordered, value):
    """Put a value in its place among ordered ones, the last of which goes."""
    at = len(ordered) - 1
    while at > 0 and ordered[at - 1] > value:
        ordered[at] = ordered[at - 1]
        at -= 1
    ordered[at] = value
