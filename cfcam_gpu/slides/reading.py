"""A slide's regions at any scale, of the reader that is right for it; in a worker process alone."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .by_cucim import CuCIM
from .by_openslide import OpenSlide
from .by_tifffile import Tiff
from .info import SlideInfo
from .readers import Reader
from .region import Region

READERS: dict[str, type[Reader]] = {"cucim": CuCIM, "tifffile": Tiff, "openslide": OpenSlide}
#: Pixels of a level that are read at once: regions of more are read in parts.
PART = 1 << 23


class SlideReader:
    """Reads regions of one slide.

    Parameters
    ----------
    slide : SlideInfo

    Raises
    ------
    SlideError
        If the file is not what its tags said.
    """

    def __init__(self, slide: SlideInfo) -> None:
        self.slide = slide
        self.source = READERS[slide.reader](slide)

    def close(self) -> None:
        """Close the file."""
        self.source.close()

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Read a region.

        Of the coarsest level that is fine enough, reduced to the scale: by the mean where that is a whole number of
        pixels, else by a filter that looks a little beyond the region, so that neighbouring regions fit together.

        Parameters
        ----------
        region : Region

        Returns
        -------
        (height, width, 3) uint8 array
            RGB; white outside the slide.
        """
        # A level whose rounded size makes it look a trifle coarser is meant.
        level = max(
            n for n, each in enumerate(self.slide.levels) if each.downsample <= region.scale * Fraction(1001, 1000)
        )
        factor = max(region.scale / Fraction(self.slide.levels[level].downsample), Fraction(1))
        return self._read(level, factor, region.x, region.y, region.width, region.height)

    def _read(self, level: int, factor: Fraction, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if width * height * factor**2 > PART and max(width, height) > 1:
            across = width >= height
            half = (width if across else height) // 2
            if across:
                first = self._read(level, factor, x, y, half, height)
                second = self._read(level, factor, x + half, y, width - half, height)
            else:
                first = self._read(level, factor, x, y, width, half)
                second = self._read(level, factor, x, y + half, width, height - half)
            return np.concatenate([first, second], axis=1 if across else 0)
        if factor.denominator == 1:
            step = int(factor)
            pixels = self.source.region(level, x * step, y * step, width * step, height * step)
            return pixels if step == 1 else np.asarray(Image.fromarray(pixels).reduce(step))
        beyond = math.ceil(factor) + 1
        left, upper = math.floor(x * factor) - beyond, math.floor(y * factor) - beyond
        right, lower = math.ceil((x + width) * factor) + beyond, math.ceil((y + height) * factor) + beyond
        pixels = self.source.region(level, left, upper, right - left, lower - upper)
        box = (
            float(x * factor - left),
            float(y * factor - upper),
            float((x + width) * factor - left),
            float((y + height) * factor - upper),
        )
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.HAMMING, box=box))
