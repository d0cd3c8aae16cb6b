"""What reads a slide's levels, each library with the same call; in a worker process alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from .info import SlideInfo

#: How to get what may be missing.
EXTRA = "pip install 'cfcam-gpu[slides]'"
#: MiB of decoded tiles that each process keeps, as neighbouring regions share them.
CACHE = 64


class Reader(ABC):
    """Reads regions of a slide's levels.

    Parameters
    ----------
    slide : SlideInfo
    """

    def __init__(self, slide: SlideInfo) -> None:
        self.slide = slide

    def region(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region.

        Parameters
        ----------
        level : int
        x, y : int
            Its left upper corner, in the level's pixels. It may lie outside.
        width, height : int
            In the level's pixels.

        Returns
        -------
        (height, width, 3) uint8 array
            RGB; white outside the level.
        """
        whole = self.slide.levels[level]
        left, upper = max(x, 0), max(y, 0)
        right, lower = min(x + width, whole.width), min(y + height, whole.height)
        if (left, upper, right, lower) == (x, y, x + width, y + height):
            return self.inside(level, x, y, width, height)
        pixels = np.full((height, width, 3), 255, np.uint8)
        if left < right and upper < lower:
            part = self.inside(level, left, upper, right - left, lower - upper)
            pixels[upper - y : lower - y, left - x : right - x] = part
        return pixels

    @abstractmethod
    def inside(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region that lies within the level."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class Tiled(Reader):
    """Reads a file's own tiles, or strips, whole, and keeps the last ones: neighbouring regions share them.

    Parameters
    ----------
    slide : SlideInfo
    """

    def __init__(self, slide: SlideInfo) -> None:
        super().__init__(slide)
        self._kept: OrderedDict[tuple[int, int, int], NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0

    def inside(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region that lies within the level."""
        rows, columns = self.grid(level)
        pixels = np.empty((height, width, 3), np.uint8)
        for row in range(y // rows, -(-(y + height) // rows)):
            for column in range(x // columns, -(-(x + width) // columns)):
                tile = self._tile(level, row, column)
                left, upper = max(x, column * columns), max(y, row * rows)
                right, lower = min(x + width, (column + 1) * columns), min(y + height, (row + 1) * rows)
                part = tile[upper - row * rows : lower - row * rows]
                part = part[:, left - column * columns : right - column * columns]
                pixels[upper - y : lower - y, left - x : right - x] = part
        return pixels

    @abstractmethod
    def grid(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level's tiles."""

    @abstractmethod
    def tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Read a tile.

        Parameters
        ----------
        level, row, column : int

        Returns
        -------
        (h, w, 3) uint8 array
            RGB, at least as far as the level goes.

        Raises
        ------
        ImportError
            If the library that decodes it is not installed.
        SlideError
            If it can't be decoded.
        """

    def _tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        key = level, row, column
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        pixels = self.tile(level, row, column)
        self._kept[key] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > CACHE << 20 and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels
