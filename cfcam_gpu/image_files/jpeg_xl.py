"""The head of a JPEG XL file, which its plugin for Pillow decodes before it says how large it is."""

from __future__ import annotations

from typing import IO, NamedTuple

from .formats import UnreadableError

_SIGNATURE = b"\xff\x0a"
#: Width by height: 1:1, 12:10, 4:3, 3:2, 16:9, 5:4, 2:1.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
#: Bytes of a codestream that hold what is read here.
_ENOUGH = 64


class Head(NamedTuple):
    """Size in pixels, before the image is turned upright, and whether there are several frames."""

    width: int
    height: int
    animated: bool


def read_head(file: IO[bytes]) -> Head:
    """The head of a JPEG XL file (ISO/IEC 18181-1, annex D).

    Raises
    ------
    UnreadableError
        If there is none.
    """
    bits = _Bits(_codestream(file))
    width, height = _size(bits)
    animated = False
    if not bits.take(1) and bits.take(1):  # not all is as by default, and there are extra fields
        bits.take(3)  # the orientation
        if bits.take(1):
            _size(bits)  # in which it wants to be shown
        # A preview has a size of another form, behind which nothing is read.
        animated = not bits.take(1) and bool(bits.take(1))
    return Head(width, height, animated)


def _codestream(file: IO[bytes]) -> bytes:
    """The beginning of the codestream: all of the file, or what is in its boxes."""
    file.seek(0)
    if file.read(2) == _SIGNATURE:
        return file.read(_ENOUGH)
    file.seek(0)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        length, start = (int.from_bytes(file.read(8), "big"), 16) if length == 1 else (length, 8)
        if kind in (b"jxlc", b"jxlp"):
            # A part has a number before it.
            return file.read(_ENOUGH)[(4 if kind == b"jxlp" else 0) + len(_SIGNATURE) :]
        if length < start:
            break
        file.seek(length - start, 1)
    raise UnreadableError("a damaged JPEG XL")


class _Bits:
    """Bits of a codestream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")
        self.left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise UnreadableError("a damaged JPEG XL")
        found = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return found


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height
