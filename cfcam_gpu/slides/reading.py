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
#: How much finer a level may be than the coarsest that is fine enough, if whole pixels of it make one: each is read.
FINER = 4


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

        Of the coarsest level that is fine enough, reduced to the scale by a filter that looks a little beyond the
        region, so that neighbouring regions fit together; or, if a level that is not much finer has it, by the mean of
        a whole number of pixels.

        Parameters
        ----------
        region : Region

        Returns
        -------
        (height, width, 3) uint8 array
            RGB; white outside the slide.
        """
        scale = region.scale
        ratios = [Fraction(level.downsample) for level in self.slide.levels]
        coarsest = max(ratio for ratio in ratios if ratio <= scale)
        whole = [ratio for ratio in ratios if (scale / ratio).denominator == 1 and coarsest <= FINER * ratio]
        ratio = max(whole, default=coarsest)
        # What lies outside is white, whatever its size: it is not read.
        left, upper = max(region.x, 0), max(region.y, 0)
        right = min(region.x + region.width, math.ceil(self.slide.width / scale))
        lower = min(region.y + region.height, math.ceil(self.slide.height / scale))
        pixels = np.full((region.height, region.width, 3), 255, np.uint8)
        if left < right and upper < lower:
            part = self._read(ratios.index(ratio), scale / ratio, left, upper, right - left, lower - upper)
            pixels[upper - region.y : lower - region.y, left - region.x : right - region.x] = part
        return pixels

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
