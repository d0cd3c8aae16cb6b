"""The maps of overlapping tiles blended into one, row by row, in memory that does not grow with the slide's height."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .tiles import Plan

#: Pixels of the reduced slide along the side of one of the map's: a tile of 224 has 28 of these, which no target layer
#: goes beyond in common networks, and a map takes a 64th of the slide's room.
CELL = 8
#: What there is of each target: :func:`cfcam_gpu.slides.table.evidence`, and the probability of the class.
CHANNELS = ("evidence", "probability")


@dataclass(eq=False)
class Stitching:
    """Maps on cells of :data:`CELL` x :data:`CELL` pixels of the reduced slide: of each target its :data:`CHANNELS`.

    A cell's value is the weighted mean of what the tiles over it say there, which is each one's mean over the cell. The
    weight is a Hann window over the tile, as far as the cell covers it: it falls to nothing at a tile's edges, so that
    no seam is left where one begins, and as the weights are divided by, tiles that say the same make a constant. The
    probability is the same all over a tile.

    Parameters
    ----------
    plan : Plan
    targets : int
        How many there are.
    upper : int
        The first row of cells that tiles may still come to.
    sums : (targets, 2, h, width) float32 array
        From row `upper` on, what the tiles said so far, weighted.
    weight : (h, width) float32 array
        Their weights.
    """

    plan: Plan
    targets: int
    upper: int = 0
    sums: NDArray[np.float32] = field(init=False)
    weight: NDArray[np.float32] = field(init=False)
    _shares: dict[tuple[int, int, int], NDArray[np.float32]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.targets, len(CHANNELS), 0, self.width), np.float32)
        self.weight = np.zeros((0, self.width), np.float32)

    @property
    def height(self) -> int:
        """Rows of cells."""
        return math.ceil(self.plan.height / CELL)

    @property
    def width(self) -> int:
        """Columns of cells."""
        return math.ceil(self.plan.width / CELL)

    def finished(self, index: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Give out the rows that neither tile `index` nor a later one comes to; all of them behind the last tile.

        Parameters
        ----------
        index : int
            The next tile. Tiles come row by row.

        Yields
        ------
        first : int
            A row of cells.
        values : (targets, 2, n, width) float32 array
            It and those below it; NaN where there is no tile.
        """
        end = self.height if index == len(self.plan) else int(self.plan.corners[index, 1]) // CELL
        while self.upper < end:
            # Where no tile is, rows are given out as many at a time as a tile has.
            count = min(end - self.upper, len(self.weight) or math.ceil(self.plan.tile / CELL))
            self._reach(self.upper + count)
            with np.errstate(invalid="ignore"):
                values = self.sums[:, :, :count] / self.weight[:count]
            first, self.upper = self.upper, self.upper + count
            self.sums, self.weight = self.sums[:, :, count:].copy(), self.weight[count:].copy()
            yield first, values

    def add(self, index: int, evidence: NDArray[np.float32], probability: NDArray[np.float32]) -> None:
        """Lay what is known of a tile over what is there.

        Parameters
        ----------
        index : int
            Of the tile; what is above it must have been given out by :meth:`finished`, or may be.
        evidence : (targets, S, S) float32 array
            What it says of each target, at whatever size the network sees a tile.
        probability : (targets,) float32 array
        """
        x, y = self.plan.corners[index].tolist()
        rows_seen, columns_seen = evidence.shape[1:]
        across, down = self._share(x, self.plan.width, columns_seen), self._share(y, self.plan.height, rows_seen)
        left, top = x // CELL, y // CELL - self.upper
        self._reach(self.upper + top + len(down))
        rows, columns = slice(top, top + len(down)), slice(left, left + len(across))
        weight = np.outer(down.sum(axis=1), across.sum(axis=1))
        self.sums[:, 0, rows, columns] += down @ evidence @ across.T
        self.sums[:, 1, rows, columns] += probability[:, None, None] * weight
        self.weight[rows, columns] += weight

    def _reach(self, end: int) -> None:
        """Have room for rows up to `end`."""
        more = end - self.upper - len(self.weight)
        if more > 0:
            self.sums = np.pad(self.sums, ((0, 0), (0, 0), (0, more), (0, 0)))
            self.weight = np.pad(self.weight, ((0, more), (0, 0)))

    def _share(self, start: int, length: int, size: int) -> NDArray[np.float32]:
        """What each of a tile's `size` pixels adds to the cells from that of pixel `start` on: (cells, size).

        What lies behind `length`, the end of the slide, adds nothing.
        """
        inside = min(self.plan.tile, length - start)
        key = start % CELL, inside, size
        if key not in self._shares:
            borders = start % CELL + np.arange(size + 1) * (self.plan.tile / size)
            borders = borders.clip(max=start % CELL + inside)
            cells = np.arange(math.ceil((start % CELL + inside) / CELL))[:, None] * CELL
            covered = (np.minimum(borders[1:], cells + CELL) - np.maximum(borders[:-1], cells)).clip(min=0)
            window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
            # A cell's own pixels count alike.
            means, weights = covered / covered.sum(axis=1, keepdims=True), covered @ window
            self._shares[key] = (means * weights[:, None]).astype(np.float32)
        return self._shares[key]
