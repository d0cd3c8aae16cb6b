"""Slides read by tifffile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import SlideError
from .info import SlideInfo
from .readers import EXTRA, Tiled
from .samples import Samples

_JPEG, _JPEG_END = 7, b"\xff\xd9"


class Tiff(Tiled):
    """By tifffile: only the tiles, or strips, that a region lies on are decoded.

    Parameters
    ----------
    slide : SlideInfo
    """

    def __init__(self, slide: SlideInfo) -> None:
        super().__init__(slide)
        import tifffile

        self.file = tifffile.TiffFile(slide.path)
        self.pages = [page_at(self.file, level.place) for level in slide.levels]
        self.samples = [Samples(page) for page in self.pages]

    def inside(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region that lies within the level."""
        page = self.pages[level]
        if not in_one_piece(page):
            return super().inside(level, x, y, width, height)
        planes, _, rows, columns, channels = page.shaped
        kind = np.dtype(page.dtype).newbyteorder(self.file.byteorder)
        # Mapped anew each time: what has been read would stay in memory.
        whole = np.memmap(self.slide.path, kind, "r", page.dataoffsets[0], (planes, rows, columns, channels))
        values = np.moveaxis(whole[:, y : y + height, x : x + width], 0, -2).reshape(height, width, planes * channels)
        return self.samples[level].rgb(values.astype(kind.newbyteorder("=")))

    def grid(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level's tiles, or strips."""
        return segment(self.pages[level])

    def tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Read a tile or strip.

        Parameters
        ----------
        level, row, column : int

        Returns
        -------
        (h, w, 3) uint8 array
            RGB; white if it is not there.

        Raises
        ------
        ImportError
            If the library that decodes it is not installed.
        SlideError
            If it can't be decoded.
        """
        page = self.pages[level]
        rows, columns = segment(page)
        beside, below = -(-page.imagewidth // columns), -(-page.imagelength // rows)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        first = row * beside + column
        try:
            parts = [self._decoded(page, first + plane * beside * below) for plane in range(planes)]
        except ImportError as error:
            raise ImportError(f"{error}; {EXTRA} installs it") from error
        except Exception as error:  # each codec has its own
            raise SlideError(
                f"its tile at x {column * columns:,}, y {row * rows:,} of the level of {page.imagewidth:,} x "
                f"{page.imagelength:,} pixels can't be decoded: {error}"
            ) from error
        there = [part for part in parts if part is not None]
        if len(there) < planes:  # nobody has scanned there
            return np.full((rows, columns, 3), 255, np.uint8)
        return self.samples[level].rgb(np.concatenate(there, axis=-1))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _decoded(self, page: Any, index: int) -> NDArray[Any] | None:
        """(h, w, channels) samples of a tile or strip; None of one that is not there."""
        count = page.databytecounts[index]
        if not count:
            return None
        self.file.filehandle.seek(page.dataoffsets[index])
        data = self.file.filehandle.read(count)
        # libjpeg would make up the rest.
        if page.compression == _JPEG and not data.rstrip(b"\0").endswith(_JPEG_END):
            raise ValueError("it is cut off")
        found = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
        return None if found is None else np.asarray(found[0])


def page_at(file: Any, place: tuple[int, ...]) -> Any:
    """Find a page of an open TIFF: its number, and of a page within it, the number among its SubIFDs."""
    page = file.pages.get(place[0])
    for number in place[1:]:
        page = page.pages.get(number)
    return page


def segment(page: Any) -> tuple[int, int]:
    """Rows and columns of a page's tiles, or strips."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return int(min(page.rowsperstrip, page.imagelength)), int(page.imagewidth)


def in_one_piece(page: Any) -> bool:
    """Whether a page is one large strip without compression, of which parts can be read where they lie."""
    rows, columns = segment(page)
    return bool(
        not page.is_tiled
        and rows * columns > 1 << 20
        and page.is_contiguous
        and page.compression == 1
        and page.predictor == 1
        and page.fillorder == 1
        and page.bitspersample in (8, 16)
    )
