"""The stored values of one frame, decoded."""

from __future__ import annotations

import math
import struct
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UnreadableError
from .files import Instance, damaged
from .values import is_uid

#: Transfer syntaxes by what their frames begin with.
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203))
_INSTALL = "pip install 'cfcam-gpu[medical]'"


class Stored(NamedTuple):
    """A frame as it is stored: (H, W) or (H, W, 3), and in which colours; ``bits`` of a whole number."""

    values: NDArray[Any]
    photometric: str
    bits: int


def stored(instance: Instance, frame: int) -> Stored:
    """The values of a frame; colours that a codec or the file has as luminance and chrominance are RGB.

    Parameters
    ----------
    instance : Instance
    frame : int
        From 0.

    Raises
    ------
    UnreadableError
        If there is no such frame, the pixels are damaged, or what decodes them is missing; the message says how to get
        it.
    """
    if not 0 <= frame < instance.frames:
        raise UnreadableError(f"frame: expected 1 to {instance.frames}; got {frame + 1}")
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import as_pixel_options
    from pydicom.uid import UID

    syntax = UID(instance.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableError(f"DICOM in {_called(syntax)}, which is not read: save its frames as PNG") from None
    if not decoder.is_available:
        missing = ", ".join(decoder.missing_dependencies)
        raise UnreadableError(
            f"DICOM in {_called(syntax)}, for which no decoder is installed: it needs one of {missing}; {_INSTALL}"
        )
    try:
        options = as_pixel_options(instance.header, pixel_keyword=instance.keyword, transfer_syntax_uid=syntax)
        if instance.vr is not None:
            options["pixel_vr"] = instance.vr
        _check_bits(options, instance.header.get("HighBit"))
        if syntax.is_encapsulated:
            _check_codestream(instance, frame, options)
        else:
            _check_length(instance, frame, options)
        if not syntax.is_encapsulated and options["bits_allocated"] == options["samples_per_pixel"] == 1:
            return Stored(_bits(instance, frame), str(options["photometric_interpretation"]), 1)
        instance.file.seek(instance.at)
        values, properties = decoder.as_array(cast(BinaryIO, instance.file), index=frame, **options)
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError("not enough memory to decode it") from None
    except Exception as error:  # what decoders raise of damaged data is anything
        raise damaged(f"its pixels, in {_called(syntax)}, can't be decoded", error) from None
    return Stored(values, str(properties["photometric_interpretation"]), int(options.get("bits_stored", 0)))


def _called(syntax: Any) -> str:
    """A transfer syntax, for people; what is no UID may be anything."""
    if not is_uid(syntax):
        return "a transfer syntax that is none"
    return f"{syntax.name} ({syntax})" if syntax.name != syntax else f"the transfer syntax {syntax}"


def _check_length(instance: Instance, frame: int, options: dict[str, Any]) -> None:
    """Refuse pixels that end before the frame does."""
    pixel = {"PixelData": int(options["bits_allocated"]), "FloatPixelData": 32, "DoubleFloatPixelData": 64}
    samples = int(options["samples_per_pixel"])
    if options["photometric_interpretation"] == "YBR_FULL_422":
        samples = 2  # two pixels share their chrominance
    bits = instance.rows * instance.columns * samples * pixel[instance.keyword]
    needed, there = math.ceil(bits * (frame + 1) / 8), instance.bytes_there()
    if needed > there or instance.length is None:
        raise damaged(f"its pixels end after {there:,} bytes, and the frame ends at {needed:,}")
    instance.allow(needed)


def _bits(instance: Instance, frame: int) -> NDArray[np.uint8]:
    """A frame of one bit a pixel: it may begin and end within a byte, of which pydicom's decoder may miss the last."""
    count = instance.rows * instance.columns
    first, last = frame * count, (frame + 1) * count
    instance.file.seek(instance.at + first // 8)
    data = np.frombuffer(instance.file.read(math.ceil(last / 8) - first // 8), np.uint8)
    bits = np.unpackbits(data, bitorder="little")[first % 8 :][:count]
    return bits.reshape(instance.rows, instance.columns)


def _check_codestream(instance: Instance, frame: int, options: dict[str, Any]) -> None:
    """Refuse a compressed frame that is cut off, or of another size than the header says: it may be huge."""
    from pydicom.encaps import get_frame

    instance.file.seek(instance.at)
    data = get_frame(
        instance.file,
        frame,
        number_of_frames=instance.frames,
        extended_offsets=options.get("extended_offsets"),
    )
    size = None
    if instance.syntax in (*_JPEG, *_JPEG_LS):
        size = _jpeg_size(data)
    elif instance.syntax in _JPEG_2000:
        size = _jpeg_2000_size(data)
    else:
        return  # RLE, of which the decoder goes by the header
    if size != (instance.columns, instance.rows):
        said = "none" if size is None else f"{size[0]} x {size[1]}"
        raise damaged(f"its header has {instance.columns} x {instance.rows} pixels, and its compressed frame {said}")
    # Behind the mark of its end some have a byte more, so that there is an even number.
    if not data.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise damaged("its compressed frame is cut off")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG or JPEG-LS, from its frame header (ISO/IEC 10918-1, B.2.2)."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fills
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG 2000 codestream, from its SIZ (ISO/IEC 15444-1, A.5.1)."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 24:
        return None
    right, lower, left, upper = struct.unpack(">4L", data[at + 8 : at + 24])
    return right - left, lower - upper


def _check_bits(options: dict[str, Any], high: Any) -> None:
    """Refuse values in other bits of a word than the lowest, which pydicom takes."""
    bits = int(options.get("bits_stored", 0))
    if options["pixel_keyword"] == "PixelData" and high not in (None, "") and high + 1 != bits:
        raise UnreadableError(
            f"DICOM whose values are in the bits {high + 1 - bits} to {high} of a word, which is not read: expected "
            f"the lowest {bits}"
        )
