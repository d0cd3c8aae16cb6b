"""Slides read by cuCIM."""

from __future__ import annotations

import ctypes
import math
import os
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .by_tifffile import Tiff
from .errors import SlideError
from .info import SlideInfo
from .readers import Tiled


class Printed:
    """Whether a library that is no Python prints something meanwhile; it is not shown."""

    def __init__(self) -> None:
        self.something = False
        self._file = os.memfd_create("printed")  # Linux, as cuCIM
        self._flush = ctypes.CDLL(None).fflush
        self._own: list[int] = []

    def __enter__(self) -> None:
        self._flush(None)
        self._own = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(self._file, number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush(None)
        for number, own in enumerate(self._own, 1):
            os.dup2(own, number)
            os.close(own)
        self.something = os.fstat(self._file).st_size > 0
        if self.something:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)

    def close(self) -> None:
        """Forget what was printed."""
        os.close(self._file)


class CuCIM(Tiled):
    """By cuCIM, on the CPU.

    Parameters
    ----------
    slide : SlideInfo

    Raises
    ------
    SlideError
        If it does not find the levels that the file's tags tell.
    """

    def __init__(self, slide: SlideInfo) -> None:
        super().__init__(slide)
        from cucim.clara import CuImage

        self.image = CuImage(slide.path)
        found = self.image.resolutions
        sizes = [tuple(size) for size in found["level_dimensions"]]
        if sizes != [(level.width, level.height) for level in slide.levels] or self.image.dtype.bits != 8:
            raise SlideError(f"cuCIM finds other levels ({sizes}) than the file's tags tell")
        self._downsamples = [float(ratio) for ratio in found["level_downsamples"]]
        self._tiles = [(height, width) for width, height in found["level_tile_sizes"]]
        self._printed = Printed()
        self._second: Tiff | None = None

    def grid(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level's tiles."""
        return self._tiles[level]

    def tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Read a tile.

        Parameters
        ----------
        level, row, column : int

        Returns
        -------
        (h, w, 3) uint8 array
            RGB, as far as the level goes.

        Raises
        ------
        ImportError
            If the library that decodes it is not installed.
        SlideError
            If it can't be decoded.
        """
        # Its own cache is for lists of places alone.
        whole = self.slide.levels[level]
        rows, columns = self._tiles[level]
        x, y = column * columns, row * rows
        width, height = min(columns, whole.width - x), min(rows, whole.height - y)
        # It takes a place on level 0, divides by its own ratio and rounds down.
        ratio = self._downsamples[level]
        place = math.ceil(x * ratio - 1e-9), math.ceil(y * ratio - 1e-9)
        # Of a tile of JPEG that it can't decode it gives what was in memory, and prints why.
        with self._printed:
            try:
                found = np.asarray(self.image.read_region(location=place, size=(width, height), level=level))
            except RuntimeError:
                found = None
        if found is None or self._printed.something:
            return self._tifffile().tile(level, row, column)
        if found.shape != (height, width, 3) or found.dtype != np.uint8:
            raise SlideError(f"cuCIM gave {found.dtype} values of shape {found.shape} for {(height, width, 3)}")
        return found.copy()

    def close(self) -> None:
        """Close the file."""
        self.image.close()
        self._printed.close()
        if self._second is not None:
            self._second.close()

    def _tifffile(self) -> Tiff:
        """What reads a tile that this can't, or says why nothing can."""
        if self._second is None:
            self._second = Tiff(self.slide)
        return self._second
