"""Files of DICOM opened: the header, what is an image and what is not, and where the pixels begin."""

from __future__ import annotations

import copy
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from ..errors import TooLargeError, UnreadableError
from .marks import MAGIC, PREAMBLE

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from pydicom import Dataset

#: Bytes of a header that is compressed as a whole; its pixels have a limit of their own.
HEADER = 64 << 20
#: Frames of one file that are counted one by one.
FRAMES = 1_000_000
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"
_DIRECTORY = "1.2.840.10008.1.3.10"
#: What the names of kinds of objects that are images have in them.
_IMAGES = ("Image Storage", "Segmentation Storage", "Parametric Map Storage", "RT Dose Storage")
_UID = re.compile(r"[0-9.]{1,64}")
_PIXELS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
_INSTALL = "pip install 'cfcam-gpu[medical]'"


class Instance:
    """One file of DICOM with pixels, of which the header is read.

    Parameters
    ----------
    file : binary file
        That can seek. It is left open.

    Attributes
    ----------
    header : pydicom.Dataset
        Without the pixels.
    frames, rows, columns : int
    keyword : str
        ``"PixelData"``, ``"FloatPixelData"`` or ``"DoubleFloatPixelData"``.

    Raises
    ------
    ImportError
        If pydicom is not installed.
    UnreadableError
        If it is damaged, or no image; the message says which kind of object it is. It has nothing of the header but
        UIDs.
    """

    def __init__(self, file: IO[bytes]) -> None:
        dicom = _pydicom()
        self.file = _inflated(file)
        self.file.seek(0)
        with refusing("itself"):
            found = dicom.dcmread(self.file, stop_before_pixels=True, force=True)
            _check_is_image(found)
            self._find_pixels(found)
            # Without the file, which the reader's own class would keep.
            self.header: Dataset = dicom.Dataset(found)
            self.header.file_meta = found.file_meta
            self.header.set_original_encoding(*found.original_encoding, found.original_character_set)
            self._read_sizes()

    def _read_sizes(self) -> None:
        found = self.header
        self.rows, self.columns = _number(found, "Rows"), _number(found, "Columns")
        self.frames = _number(found, "NumberOfFrames", 1) or 1
        if min(self.rows, self.columns, self.frames) < 1:
            raise damaged(f"it says that it has {self.frames} frames of {self.columns} x {self.rows} pixels")
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            if not _UID.fullmatch(str(found.get(name, "")) or ("" if name == "SOPInstanceUID" else "0")):
                raise UnreadableError(f"DICOM without a {name} of digits and dots, by which results refer back to it")

    def _find_pixels(self, found: Any) -> None:
        """The keyword of the pixels, the VR, and where their bytes begin and how many there are."""
        self.syntax: str = found.file_meta.get("TransferSyntaxUID", "")
        implicit, little = found.original_encoding
        if not self.syntax:  # a file without its first group, of which the encoding tells it
            self.syntax = "1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2")
        order = "<" if little else ">"
        # The element begins where reading has stopped.
        start = self.file.read(8)
        if len(start) < 8:
            raise damaged("its pixels are missing")
        group, element = struct.unpack(f"{order}HH", start[:4])
        if group != 0x7FE0 or element not in _PIXELS:
            raise damaged("its pixels are missing")
        self.keyword = _PIXELS[element]
        # Some have no VRs, against their transfer syntax.
        self.vr = start[4:6].decode() if start[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN") else None
        raw = start[4:] if self.vr is None else self.file.read(4)
        if len(raw) < 4:
            raise damaged("its pixels are missing")
        (length,) = struct.unpack(f"{order}L", raw)
        self.at = self.file.tell()
        #: Bytes of the pixels as the header has them; None where they are in parts, each with its length.
        self.length: int | None = None if length == 0xFFFFFFFF else length

    def check_size(self, max_pixels: int | None, limit: int | None = None) -> None:
        """Refuse frames that are too large, before any is decoded.

        Parameters
        ----------
        max_pixels : int or None
        limit : int or None
            The process's own.

        Raises
        ------
        TooLargeError
        """
        for most in (max_pixels, limit):
            if most is not None and self.rows * self.columns > most:
                raise TooLargeError(f"{self.columns} x {self.rows}, more than the limit of {most:,} pixels")

    def check_frames(self, size: int | None = None) -> None:
        """Refuse more frames than there are pixels for, before they are counted one by one.

        Parameters
        ----------
        size : int, optional
            Bytes of the whole file, where what is open is its beginning.

        Raises
        ------
        UnreadableError
        """
        if self.frames == 1:
            return
        if self.frames > FRAMES:
            raise TooLargeError(f"{self.frames:,} frames, more than the limit of {FRAMES:,}")
        inflated = isinstance(self.file, _Inflating)
        there = self.bytes_there() if size is None or inflated else size - self.at
        if self.length is None:
            least = self.frames * 8.0  # a part has 8 bytes before its own
        else:
            bits = _number(self.header, "BitsAllocated", 32 if self.keyword == "FloatPixelData" else 64)
            least = self.frames * self.rows * self.columns * bits / 8
        if least > there:
            raise damaged(f"it says that it has {self.frames:,} frames, and has {there:,} bytes of pixels")

    def over(self, file: IO[bytes]) -> Instance:
        """The same header with the file opened anew: pixels can be read, however often it was closed."""
        result = copy.copy(self)
        result.file = _inflated(file)
        return result

    def bytes_there(self) -> int:
        """How many bytes of pixels the file has at most."""
        if isinstance(self.file, _Inflating):
            return self.length or 0
        there = self.file.seek(0, os.SEEK_END) - self.at
        return there if self.length is None else min(there, self.length)

    def allow(self, count: int) -> None:
        """Have a deflated file unpacked as far as so many bytes of its pixels."""
        if isinstance(self.file, _Inflating):
            self.file.limit = self.at + count


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Inside, a header is looked at: whatever pydicom raises of it is an UnreadableError.

    Parameters
    ----------
    what : str
        Of what can't be read then.

    Raises
    ------
    UnreadableError
        Which names it, and nothing of what is there.
    """
    try:
        yield
    except (UnreadableError, ImportError, MemoryError):
        raise
    except Exception as error:  # its words may quote what is there
        raise damaged(f"what it says of {what} can't be read", error) from None


def damaged(what: str, error: Exception | None = None) -> UnreadableError:
    """The error of a damaged file; of `error` only the class is told, as words of pydicom's may quote the header."""
    return UnreadableError(f"a damaged file of DICOM: {what}" + (f" ({type(error).__name__})" if error else ""))


def _pydicom() -> Any:
    try:
        import pydicom
    except ModuleNotFoundError:
        raise ImportError(f"DICOM, for which pydicom is not installed; {_INSTALL}") from None
    return pydicom


def _number(found: Any, name: str, missing: int = 0) -> int:
    value = found.get(name)
    return missing if value is None or value == "" else int(value)


def _check_is_image(found: Any) -> None:
    from pydicom.uid import UID

    kind = str(found.get("SOPClassUID") or found.file_meta.get("MediaStorageSOPClassUID", ""))
    if kind == _DIRECTORY:
        raise UnreadableError("a DICOMDIR, which lists other files: give these, or the folder that they are in")
    if not len(found):
        raise damaged("it has no elements")
    if "Rows" not in found:
        name = UID(kind).name if _UID.fullmatch(kind) else "an unknown kind of object"
        if not kind or any(word in name for word in _IMAGES):
            raise damaged(f"{name} without its rows and columns; is it cut off?")
        raise UnreadableError(f"DICOM without an image: {name}")


def _inflated(file: IO[bytes]) -> IO[bytes]:
    """The same, or what is in it where all behind its first group is deflated: pydicom would unpack it at once."""
    file.seek(0)
    head = file.read(4096)
    mark = head.find(b"\x02\0\x10\0UI")
    if head[PREAMBLE : PREAMBLE + 4] != MAGIC or head[mark + 8 : mark + 8 + len(_DEFLATED)] != _DEFLATED:
        return file
    first = PREAMBLE + 4
    if head[first : first + 8] != b"\x02\0\0\0UL\x04\0":
        raise damaged("its first group doesn't say how long it is")
    end = first + 12 + int.from_bytes(head[first + 8 : first + 12], "little")
    return cast("IO[bytes]", _Inflating(file, head[:end].replace(_DEFLATED, _EXPLICIT), end))


class _Inflating(io.RawIOBase):
    """A deflated file, unpacked as far as it is looked at: a few bytes may be as many zeros as a memory holds."""

    def __init__(self, file: IO[bytes], head: bytes, start: int) -> None:
        self._file, self._start = file, start
        self._data, self._inflating, self._at = bytearray(head), zlib.decompressobj(-zlib.MAX_WBITS), 0
        self.limit = HEADER
        file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        end = self._at + len(view)
        if min(end, len(self._data) + 1) > self.limit:
            raise TooLargeError(f"deflated DICOM of more than {self.limit:,} bytes before its pixels")
        while len(self._data) < end and not self._inflating.eof:
            # What was not taken in yet is given again.
            packed = self._inflating.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                break
            self._data += self._inflating.decompress(packed, 1 << 20)
        found = self._data[self._at : end]
        view[: len(found)] = found
        self._at += len(found)
        return len(found)
