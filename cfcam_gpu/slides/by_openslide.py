"""Slides read by OpenSlide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .info import SlideInfo
from .readers import CACHE, Reader


class OpenSlide(Reader):
    """By OpenSlide.

    Parameters
    ----------
    slide : SlideInfo
    """

    def __init__(self, slide: SlideInfo) -> None:
        super().__init__(slide)
        import openslide

        self.file = openslide.OpenSlide(slide.path)
        self.file.set_cache(openslide.OpenSlideCache(CACHE << 20))

    def inside(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region that lies within the level."""
        # It divides by its own ratio, of rounded sizes.
        ratio = self.file.level_downsamples[level]
        rgba = np.asarray(self.file.read_region((round(x * ratio), round(y * ratio)), level, (width, height)))
        opaque = rgba[..., 3:].astype(np.uint16)
        return ((rgba[..., :3] * opaque + 255 * (255 - opaque) + 127) // 255).astype(np.uint8)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
