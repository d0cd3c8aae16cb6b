"""Which pairs of points are near each other: most of it decided in float32, and what is close to call in float64.

The oracle's distances (SciPy's ``pdist``) and what DBSCAN's radius is read from them take most of its time. Here one
matrix product in float32 gives all distances within a bound that is proven below; only the pairs that it can't tell
from the decisive distance are measured as the oracle measures them, so that the radius and the graph are the same to
the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.chunks import chunk_size
from ..core.cluster_filter import MIN_EPS, percentile_rank
from ..core.config import Config

#: Rows of a band: of a square of the pairs this many rows, from the diagonal on.
BAND = 128
#: Half a unit in float32's last place.
_ROUNDING = 2.0**-24
#: Pairs in doubt above this share of all are more work than measuring all.
DOUBTFUL = 1 / 16
#: Bytes of the differences that are taken at once: 8 MiB.
_MEMORY = 1 << 23
#: Neighbours that are found one after the other; a partition of each row is quicker for one farther away.
_FEW = 4

Indices: TypeAlias = NDArray[np.int64]
Factors: TypeAlias = Callable[[NDArray[np.float64]], tuple[NDArray[np.float32], NDArray[np.float32], float, float]]

#: Of the square at a band's beginning: what is on the diagonal or below it, and what is below it.
_NO_PAIR, _BELOW = np.tri(BAND, dtype=bool), np.tri(BAND, k=-1, dtype=bool)


class InDoubtError(Exception):
    """Too many pairs are too close to call: the oracle is quicker."""


class Pairs:
    """Squared distances of all pairs of N points, each once, in float32.

    ``squares`` holds them in bands of rows, one after the other: row i of a band that begins with point a has the pairs
    of a + i with a, a + 1, ..., N - 1. They are within ``error`` of what they stand for, squared distances in units of
    ``unit`` squared. After :meth:`finish`, what is no pair, j <= i, is infinite, and -1 are pairs of points at the
    origin, which are certain.

    Parameters
    ----------
    points : (N, D) float64
        N at least 2.
    factors : callable, optional
        What gives the same as :func:`factors_of`.

    Raises
    ------
    InDoubtError
        If there are so many dimensions that the bound says nothing.

    Notes
    -----
    With u = 2^-24 and q the squared norms: float32 rounds coordinates and q by u; a sum of D + 2 products, in any
    order, fused or not, is off by at most g (2 |x| |y| + q_x + q_y) <= 2 g (q_x + q_y), where g = (D + 2) u / (1 -
    (D + 2) u) (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3); the rounded coordinates and norms
    add at most 4 u (q_x + q_y). What underflows adds less than 2^-120 D, as all q are below 1. Distances don't change
    when all points move; around their mean the norms are smallest.
    """

    def __init__(self, points: NDArray[np.float64], factors: Factors | None = None) -> None:
        self.points = points
        count, dimensions = points.shape
        left, right, self.unit, largest = (factors or factors_of)(points)
        terms = (dimensions + 2) * _ROUNDING
        bound = terms / (1 - terms) if terms < 0.5 else math.inf
        self.error = (4.01 * bound + 8 * _ROUNDING) * largest + dimensions * 2.0**-120
        if self.error > 0.5:  # of squares up to 4
            raise InDoubtError
        self._firsts = np.arange(0, count, BAND)
        sizes = [min(BAND, count - first) * (count - first) for first in self._firsts]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self.squares = self._multiplied(left, right)

    def __len__(self) -> int:
        return len(self.points)

    def _multiplied(self, left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
        in_float32 = _multiplies_in_float32()
        factors = [torch.from_numpy(factor) for factor in (left, right)]
        if not in_float32:
            factors = [factor.double() for factor in factors]
        squares = torch.empty(int(self._starts[-1]), dtype=torch.float32)
        with torch.autocast("cpu", enabled=False):
            for first, start, end in zip(self._firsts, self._starts, self._starts[1:]):
                band = squares[start:end].view(-1, int(len(self) - first))
                rows, columns = factors[0][first : first + BAND], factors[1][first:].T
                if in_float32:
                    torch.mm(rows, columns, out=band)
                else:
                    band.copy_(rows @ columns)
        return squares.numpy()

    def finish(self) -> None:
        """Mark what is no pair, and what is certain."""
        at_origin = np.logical_not(self.points.any(axis=1))
        #: How many pairs are at the origin.
        self._certain = math.comb(int(at_origin.sum()), 2)
        for first, band in self._bands(self.squares):
            rows = len(band)
            if self._certain:
                band[np.ix_(at_origin[first : first + rows], at_origin[first:])] = -1
            np.copyto(band[:, :rows], np.inf, where=_NO_PAIR[:rows, :rows])

    def eps(self, config: Config) -> float:
        """DBSCAN's radius, at least :data:`~cfcam_gpu.core.cluster_filter.MIN_EPS`.

        Raises
        ------
        InDoubtError
        """
        if config.eps_rule == "pair_percentile":
            rank, share = self.rank(config)
            low, high = self._order_statistics(rank)
            eps = low + (high - low) * share if share > 0 else low
        else:
            eps = self._middle_neighbor(self.neighbor(config))
        return max(float(eps), MIN_EPS)

    def rank(self, config: Config) -> tuple[int, float]:
        """Of the distance that a percentile asks for, see :func:`~cfcam_gpu.core.cluster_filter.percentile_rank`."""
        return percentile_rank(math.comb(len(self), 2), config.eps_percentile)

    def neighbor(self, config: Config) -> int:
        """The number of the neighbour that decides, the point itself not counted."""
        return min(config.eps_neighbor, len(self)) - 1

    def near(self, eps: float) -> NDArray[np.bool_]:
        """(N, N): whether two points are within `eps`, each of itself, too.

        Raises
        ------
        InDoubtError
        """
        square = min(eps / self.unit, 3.0) ** 2  # none is above 4
        sure, perhaps = max(square - 1.1 * self.error, -1.0), square + 1.1 * self.error
        near = self.squares <= np.float32(sure)
        doubtful = np.flatnonzero((self.squares <= np.float32(perhaps)) ^ near)
        near[doubtful] = self._distances(*self._ends(doubtful)) <= eps
        found: NDArray[np.bool_] = self._square(near)
        np.fill_diagonal(found, True)
        return found

    def _order_statistics(self, rank: int) -> tuple[float, float]:
        """The distances of this rank, counted from 0, and of the next; of the last pair its own twice."""
        last = min(rank + 1, math.comb(len(self), 2) - 1)
        if last < self._certain:
            return 0.0, 0.0
        if rank < self._certain:
            return 0.0, self._order_statistics(last)[0]
        slack = 2.1 * self.error
        low, below, high = bracket(self.squares, rank, last)
        # Whatever lies between, and as far around it as the error may reach; not what is certain.
        low_edge = max(low - slack, -0.5)
        places = np.flatnonzero((self.squares >= np.float32(low_edge)) & (self.squares <= np.float32(high + slack)))
        squares = self.squares[places]
        ordered = np.sort(squares)
        below -= int(np.count_nonzero(squares < low)) if low_edge > -0.5 else below - self._certain
        first, second = ordered[rank - below], ordered[last - below]
        chosen = (squares >= first - slack) & (squares <= second + slack)
        below += int(np.count_nonzero(squares < first - slack))
        distances = np.sort(self._distances(*self._ends(places[chosen])))
        return float(distances[rank - below]), float(distances[last - below])

    def _middle_neighbor(self, number: int) -> float:
        """The median of the points' distances to their neighbours of this number, themselves not counted."""
        square = self._square(self.squares)
        np.fill_diagonal(square, np.inf)
        reach = _smallest(square, number)
        middle = [(len(self) - 1) // 2, len(self) // 2]
        slack = 2.1 * self.error
        low, high = np.partition(reach, middle)[middle]
        below = int(np.count_nonzero(reach < low - slack))
        distances: list[float] = []
        doubtful = 0
        for row in np.flatnonzero((reach >= low - slack) & (reach <= high + slack)):
            if reach[row] == -1:
                distances.append(0.0)
                continue
            others = np.flatnonzero(square[row] <= reach[row] + slack)
            doubtful += others.size
            self._check(doubtful)
            of_row = self._distances(np.full_like(others, row), others)
            distances.append(float(np.partition(of_row, number - 1)[number - 1]))
        distances.sort()
        first, second = (distances[place - below] for place in middle)
        return (first + second) / 2

    def _distances(self, one: Indices, other: Indices) -> NDArray[np.float64]:
        """Of pairs of points, as SciPy's ``pdist`` has them: squares are added up one after the other.

        Raises
        ------
        InDoubtError
        """
        self._check(one.size)
        found = np.empty(one.size)
        step = chunk_size(_MEMORY, 8 * self.points.shape[1])
        for start in range(0, one.size, step):
            part = slice(start, start + step)
            # Either way round the differences' squares are the same.
            differences = self.points[one[part]] - self.points[other[part]]
            differences *= differences
            np.add.accumulate(differences, axis=1, out=differences)
            np.sqrt(differences[:, -1], out=found[part])
        return found

    def _check(self, doubtful: int) -> None:
        if doubtful > max(64, DOUBTFUL * self.squares.size):
            raise InDoubtError

    def _ends(self, places: Indices) -> tuple[Indices, Indices]:
        """The points of pairs at these places of ``squares``."""
        band = np.searchsorted(self._starts, places, side="right") - 1
        first = self._firsts[band]
        row, column = np.divmod(places - self._starts[band], len(self) - first)
        return first + row, first + column

    def _bands(self, values: NDArray[Any]) -> list[tuple[int, NDArray[Any]]]:
        """The first point of each band, and its part of `values`, which lie as ``squares`` does."""
        return [
            (int(first), values[start:end].reshape(-1, len(self) - first))
            for first, start, end in zip(self._firsts, self._starts, self._starts[1:])
        ]

    def _square(self, values: NDArray[Any]) -> NDArray[Any]:
        """(N, N) and symmetric, from `values`, which lie as ``squares`` does."""
        square = np.empty((len(self), len(self)), values.dtype)
        for first, band in self._bands(values):
            rows = len(band)
            end = first + rows
            square[first:end, first:] = band
            square[end:, first:end] = band[:, rows:].T
            corner = square[first:end, first:end]
            np.copyto(corner, band[:, :rows].T, where=_BELOW[:rows, :rows])
        return square


def factors_of(points: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32], float, float]:
    """The factors of the product that gives the squared distances, -2 x . y + q_x + q_y.

    Parameters
    ----------
    points : (N, D) float64

    Returns
    -------
    left, right : (N, D + 2) float32
        -2 x, q, 1 and x, 1, q, of the points around their mean, in units of `unit`.
    unit : float
        A power of two, so that to divide by it rounds nothing, above the norms.
    largest : float
        The largest squared norm q in these units, at most 1.
    """
    centred = points - points.mean(axis=0)
    norms = np.einsum("ij,ij->i", centred, centred)
    unit = unit_of(float(norms.max()))
    centred /= unit
    norms /= unit
    norms /= unit
    left, right = np.ones((2, len(points), points.shape[1] + 2), np.float32)
    np.multiply(centred, -2.0, out=left[:, :-2], casting="same_kind")
    right[:, :-2] = centred
    left[:, -2] = right[:, -1] = norms
    return left, right, unit, float(norms.max())


def unit_of(largest: float) -> float:
    """A power of two above the root of a squared norm."""
    return math.ldexp(1.0, math.frexp(math.sqrt(largest))[1])


def _multiplies_in_float32() -> bool:
    """Whether torch's product of float32 matrices is one: a user may have let it round its factors to fewer bits."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # from release 2.9 on
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch won't say where its older and its newer settings were both used
        return False
    return precision == "highest" and getattr(matmul, "fp32_precision", "none") in ("none", "ieee")


def bracket(values: NDArray[np.float32], first: int, last: int) -> tuple[float, int, float]:
    """Two values between which the ranks `first` to `last` lie, and few others; and how many are below the lower one.

    A sample brackets them; what is between is interpolated, as often as it pays.
    """
    low, high = -math.inf, math.inf
    below, through = 0, values.size
    # Multiples of the golden ratio are spread evenly and share no period with the rows.
    shares = np.arange(min(4096, values.size)) * 0.6180339887498949 % 1.0
    sample = np.sort(values[(shares * values.size).astype(np.int64)])
    spread = 2.0 * math.sqrt(sample.size)

    def cut(value: float) -> None:
        nonlocal low, below, high, through
        count = int(np.count_nonzero(values < np.float32(value)))
        if count <= first:
            low, below = value, count
        elif count > last:
            high, through = value, count

    share = sample.size / values.size
    for place in (int(first * share - spread), int(last * share + spread) + 1):
        if 0 <= place < sample.size:
            cut(float(sample[place]))
    for _ in range(2):
        between = through - below
        if between < max(1024, values.size // 500) or not (0 <= low < high < math.inf):
            break
        start, width = low, high - low
        for part in ((first - below) / between - 0.05, (last + 1 - below) / between + 0.05):
            if 0 < part < 1:
                cut(float(np.float32(start + width * part)))
    return low, below, high


def _smallest(square: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """The smallest of each row of this number, counted from 1."""
    if number > _FEW:
        return np.partition(square, number - 1, axis=1)[:, number - 1]
    left, rows = square.copy(), np.arange(len(square))
    for _ in range(number - 1):
        left[rows, left.argmin(axis=1)] = np.inf
    smallest: NDArray[np.float32] = left.min(axis=1)
    return smallest
