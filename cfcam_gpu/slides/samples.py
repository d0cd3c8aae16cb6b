"""The samples of a TIFF's page: whether they are colours that can be told, and turned into 8-bit RGB on white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..scans.errors import UnreadableError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ASSOCIATED, _ALPHAS = 1, (1, 2)
_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE = 281, 341
_JPEG = 7
#: Which tifffile reads right, by their numbers.
COMPRESSIONS = {
    1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 33005: "JPEG 2000",
    34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 34933: "PNG", 50000: "zstd", 50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip
#: Bytes that a tile, or a strip, may take once it is decoded.
SEGMENT = 256 << 20
_SAVE = "save it as a tiled pyramid of 8-bit RGB (vips tiffsave --tile --pyramid, or bfconvert)"


def _check_numbers(page: Any) -> None:
    """Refuse a page whose sizes are none: a tag's type may be anything, and Python multiplies texts, too."""
    sizes = [page.imagewidth, page.imagelength, page.samplesperpixel, page.bitspersample]
    sizes += [page.tilewidth, page.tilelength] if page.is_tiled else [page.rowsperstrip]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UnreadableError("a damaged TIFF: its sizes are no numbers above 0")


class Samples:
    """What a page's tags say of its samples.

    Parameters
    ----------
    page : tifffile.TiffPage

    Raises
    ------
    UnreadableError
        If nothing tells their colours, or they can't be decoded.
    """

    def __init__(self, page: Any) -> None:
        _check_numbers(page)
        self.photometric = int(page.photometric)
        self.colours = 3 if self.photometric in (_RGB, _YCBCR) else 1
        extra = tuple(int(value) for value in page.extrasamples)
        #: Which of the extra samples is alpha, and of which kind.
        self.alpha = next(((n, value) for n, value in enumerate(extra) if value in _ALPHAS), None)
        self.palette: NDArray[np.uint8] | None = None
        compression = int(page.compression)
        channels = int(page.samplesperpixel)
        kind = page.dtype.kind if page.dtype is not None else "?"
        name = {"u": "", "b": "", "i": "signed ", "f": "floating-point "}.get(kind, "other ")
        many = f"{channels} channel{'s' * (channels != 1)} of {page.bitspersample} {name}bits"
        if self.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR):
            colours = getattr(page.photometric, "name", self.photometric)
            raise UnreadableError(f"a TIFF with colours as {colours}, which are not read: {_SAVE}")
        if compression not in COMPRESSIONS:
            what = getattr(page.compression, "name", compression)
            raise UnreadableError(f"a TIFF of the compression {what}, which is not read: {_SAVE}")
        if self.photometric == _YCBCR and compression != _JPEG:
            raise UnreadableError(f"a TIFF in YCbCr without JPEG compression, which is not read: {_SAVE}")
        if kind not in "ub" or page.bitspersample not in (1, 2, 4, 8, 16):
            raise UnreadableError(f"a TIFF of {many}, of which nothing tells what is black and white: {_SAVE}")
        if channels < self.colours or (self.colours == 1 and channels > 1 + (self.alpha is not None)):
            raise UnreadableError(
                f"a TIFF of {many} that are no colours, as of fluorescence: choose three of them, and {_SAVE}"
            )
        if int(page.tags.valueof(274, 1)) != 1:
            raise UnreadableError(f"a TIFF that is to be turned (its Orientation is not 1): turn it, and {_SAVE}")
        if page.imagedepth > 1 or page.tiledepth > 1:
            raise UnreadableError(f"a TIFF with a volume of {page.imagedepth} slices in one page: save one of them")
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        size = min(rows, page.imagelength if not page.is_tiled else rows) * columns * channels * page.dtype.itemsize
        if size > SEGMENT and not (compression == 1 and page.is_contiguous):
            what = "tiles" if page.is_tiled else "strips"
            raise UnreadableError(
                f"a TIFF whose {what} have {size / 2**20:,.0f} MiB each, not to be read in parts: {_SAVE}"
            )
        if self.photometric == _PALETTE:
            if page.bitspersample > 8 or page.colormap is None:
                raise UnreadableError(f"a TIFF of {many} with a palette, which is not read: {_SAVE}")
            # Some write 8 bits where there should be 16.
            narrow = int(page.colormap.max()) < 256
            self.palette = (page.colormap if narrow else page.colormap >> 8).astype(np.uint8).T
        self.white = self._white(page)
        if self.white is None:
            raise UnreadableError(
                f"a TIFF of {many} that does not say which value is white (MaxSampleValue, 65535 for example): "
                f"write the tag, or {_SAVE}"
            )

    @property
    def plain(self) -> bool:
        """Whether the samples are 8-bit RGB as they are."""
        return self.colours == 3 and self.white == 255 and self.alpha is None

    @staticmethod
    def _white(page: Any) -> int | None:
        if page.bitspersample <= 8:
            return int((1 << page.bitspersample) - 1)
        for tag in (_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE):
            value = page.tags.valueof(tag)
            value = max(value) if isinstance(value, tuple) else value
            # The largest value that occurs would tell nothing: white is 2^n - 1.
            if isinstance(value, int) and 0xFF <= value <= 0xFFFF and not value & (value + 1):
                return value
        return None

    def rgb(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Turn (h, w, channels) samples into (h, w, 3) RGB, what is transparent laid on white."""
        white = self.white
        assert white is not None
        extra = values[..., self.colours :]
        colours = values[..., : self.colours]
        if self.palette is not None:
            colours = self.palette[colours[..., 0]]
        elif white != 255:
            colours = self._bytes(colours)
        if self.photometric == _WHITE_IS_ZERO:
            colours = 255 - colours
        if self.alpha is not None:
            place, kind = self.alpha
            opaque = self._bytes(extra[..., place : place + 1]).astype(np.uint32)
            # Widened first: times a scalar, NumPy 1 keeps bytes, which wrap.
            lit = colours.astype(np.uint32) * (255 if kind == _ASSOCIATED else opaque)
            colours = np.minimum((lit + 255 * (255 - opaque) + 127) // 255, 255).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)), np.uint8)

    def _bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        white = self.white
        assert white is not None
        wide = np.minimum(values.astype(np.uint32), white)
        return ((wide * 255 + white // 2) // white).astype(np.uint8)
