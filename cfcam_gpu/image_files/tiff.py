"""TIFF: which of its pages are pages, what its tags say of the samples, and which of them Pillow misreads."""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from .formats import UnreadableError

# Tags.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 259, 262, 277, 284
_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE, _EXTRA_SAMPLES = 281, 341, 338
_SUB_IFDS, _SAMPLE_FORMAT, _YCBCR_SUBSAMPLING, _DNG_VERSION = 330, 339, 530, 50706
_SOFTWARE = 305

_REDUCED, _MASK, _PREMULTIPLIED = 1, 4, 1
_ALPHAS = ((1,), (2,))
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _YCBCR = 0, 1, 6
_FAX = (2, 3, 4)
_LAB = (8, 9, 10)
_SENSOR = (32803, 34892)
_SIGNED, _FLOATING, _COMPLEX = 2, 3, (5, 6)
_KINDS = {_SIGNED: "signed ", _FLOATING: "floating-point ", 5: "complex ", 6: "complex "}
#: Those that are met with and that Pillow has no decoder for.
_COMPRESSIONS = {33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 50002: "JPEG XL"}
_RAW = "a camera's raw file, which is not read: develop it to JPEG, PNG or TIFF"
_SAVE = "save it as 8-bit grey or RGB"


class Page(NamedTuple):
    """A page: its place among all of the file's directories, and where its directory is."""

    frame: int
    offset: int


def pages(file: IO[bytes]) -> list[Page]:
    """The pages of a TIFF, without those that are smaller copies of others, or their masks.

    If there is nothing else, the first of those. Of a file that is cut off, those before the cut.
    """
    file.seek(0)
    head = file.read(16)
    order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    count, entry, link = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    found: list[tuple[Page, bool]] = []
    seen: set[int] = set()
    left = file.seek(0, 2)
    try:
        (offset,) = struct.unpack_from(order + link, head, 8 if big else 4)
        while offset and offset not in seen:
            seen.add(offset)
            file.seek(offset)
            (entries,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
            left -= entries * struct.calcsize(order + entry)
            if left < 0:  # directories that lie over each other, which could keep one busy for hours
                break
            table = file.read(entries * struct.calcsize(order + entry))
            (following,) = struct.unpack(order + link, file.read(struct.calcsize(order + link)))
            copy = any(
                _says_copy(tag, int.from_bytes(value[: 2 if kind == 3 else 4], "little" if order == "<" else "big"))
                for tag, kind, _, value in struct.iter_unpack(order + entry, table)
            )
            found.append((Page(len(found), offset), copy))
            offset = following
    except (struct.error, OverflowError):
        pass
    return [page for page, copy in found if not copy] or [page for page, _ in found[:1]]


def _says_copy(tag: int, value: int) -> bool:
    return (tag == _NEW_SUBFILE_TYPE and value & (_REDUCED | _MASK) != 0) or (tag == _SUBFILE_TYPE and value == 2)


class Samples:
    """What a page's tags say of its samples.

    Parameters
    ----------
    file : binary file
    page : Page

    Raises
    ------
    UnreadableError
        If Pillow does not read files of this kind at all.
    """

    def __init__(self, file: IO[bytes], page: Page) -> None:
        file.seek(0)
        head = file.read(8)
        if head[:4] == b"MM\0+":
            raise UnreadableError(f"a big-endian BigTIFF, which Pillow does not read: {_SAVE}, or little-endian")
        head += file.read(8) if head[2] == 43 else b""
        self.tags = ImageFileDirectory_v2(head)
        file.seek(page.offset)
        self.tags.load(file)
        self.big_endian = head[:2] == b"MM"
        self.compression = self.tags.get(_COMPRESSION, 1)
        self.planar = self.tags.get(_PLANAR, 1) == 2
        self.photometric = self.tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO)
        self.channels = self.tags.get(_SAMPLES, 1)
        self.bits = max(self.tags.get(_BITS, (1,)))
        self.format = max(self.tags.get(_SAMPLE_FORMAT, (1,)))

    @property
    def white_is_zero(self) -> bool:
        """Whether 0 is white."""
        return bool(self.photometric == _WHITE_IS_ZERO)

    @property
    def white(self) -> int | None:
        """The value of white, as far as the tags tell: None of samples that may be narrower than their 16 or 32 bits.

        MaxSampleValue may also be the largest value that occurs, which tells nothing, so that it must be 2^n - 1.
        """
        for tag in (_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE):
            value = self.tags.get(tag)
            value = max(value) if isinstance(value, tuple) and value else value
            if isinstance(value, int) and 0xFF <= value <= 0xFFFF and not value & (value + 1):
                return value
        return None if self.bits in (16, 32) else (1 << self.bits) - 1

    def check(self) -> None:
        """Refuse what Pillow does not read as it is meant.

        Raises
        ------
        UnreadableError
            Says what the file is.
        """
        # Where there are only smaller copies of what is elsewhere in the file, it is a camera's.
        only_preview = bool(self.tags.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED) and _SUB_IFDS in self.tags
        if self.photometric in _SENSOR or _DNG_VERSION in self.tags or only_preview:
            raise UnreadableError(_RAW)
        if self.compression not in COMPRESSION_INFO:
            name = _COMPRESSIONS.get(self.compression, f"number {self.compression}")
            raise UnreadableError(f"a TIFF of the compression {name}, which is not read: save it with deflate or LZW")
        if self.format == _FLOATING:
            raise UnreadableError(
                f"its pixels are {self.bits}-bit floating-point numbers of no fixed range; save it with 8 or 16 bits"
            )
        if self.format in _COMPLEX or self.photometric in _LAB:
            raise self.refusal()
        # 32 signed bits are how Pillow itself writes 16-bit greys.
        if self.format == _SIGNED and self.bits < 32:
            raise UnreadableError(
                f"its pixels are signed {self.bits}-bit numbers, and nothing tells which of them is black and which "
                "white; save it with unsigned 8 or 16 bits"
            )
        grey = self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        # Pillow leaves out what follows, unless it is alpha.
        if grey and self.channels > 1 and tuple(self.tags.get(_EXTRA_SAMPLES, ())) not in _ALPHAS:
            raise self.refusal()
        if self._is_misread:
            raise self.refusal()

    def ones_are_meant(self) -> bool:
        """Whether labels of one bit are told by ones, although the page calls them black.

        So does tifffile with arrays of bools, unless it is told otherwise. Faxes have ones for ink.

        Raises
        ------
        UnreadableError
            If ones are black and nobody knows whether they are meant.
        """
        if self.bits > 1 or not self.white_is_zero or self.compression in _FAX:
            return False
        if str(self.tags.get(_SOFTWARE, "")).startswith("tifffile"):
            return True
        raise UnreadableError(
            "a TIFF of 1 bit whose ones are black (WhiteIsZero), so that nobody knows whether they or the zeros are "
            "meant; save it as PNG, or with the photometric interpretation BlackIsZero"
        )

    @property
    def _is_misread(self) -> bool:
        """Whether Pillow 13 and earlier give other pixels than there are, or an error that says nothing."""
        plain = self.compression == 1
        planes = self.channels if self.planar else 1
        if planes > 1 and plain and (self.bits > 8 or _PREMULTIPLIED in self.tags.get(_EXTRA_SAMPLES, ())):
            return True
        # Of the planes of a grey and its alpha the first is read, and all is transparent.
        if planes == 2 and max(self.tags.get(_EXTRA_SAMPLES, (0,))) > 0:
            return True
        if self.big_endian and not plain and self.bits > 16:
            return True
        # Without compression, colours of fewer positions than the greys are taken for as many.
        return bool(plain and self.photometric == _YCBCR and self.tags.get(_YCBCR_SUBSAMPLING, (2, 2)) != (1, 1))

    def refusal(self) -> UnreadableError:
        """What to raise of a page that can't be read."""
        kind = _KINDS.get(self.format, "")
        how = ", channel by channel" if self.planar and self.channels > 1 else ""
        many = f"{self.channels} channel{'s' * (self.channels != 1)}"
        colours = {**dict.fromkeys(_LAB, " in CIE L*a*b*"), _YCBCR: " in YCbCr"}.get(self.photometric, "")
        return UnreadableError(f"a TIFF of {many} of {self.bits} {kind}bits{colours}{how}, which is not read: {_SAVE}")
