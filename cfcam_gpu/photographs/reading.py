"""Photographs read with Pillow: right pixels as RGB, or why not."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..scans.dicom import reading as dicom
from ..scans.dicom.files import Instance
from ..scans.dicom.source import Source
from ..scans.errors import check_regular
from . import bit_depth, formats, jpeg_xl, tiff
from .formats import Format, TooLargeError, UnreadableError

#: The largest value of 12 bits. A 16-bit picture that stays below would be nearly black.
_TWELVE_BITS = 0xFFF
#: The same where compression may have added to it.
_LOSSY_TWELVE_BITS = 0x13FF
_WHITE = 0xFFFF
_FLOATING = "its pixels are floating-point numbers of no fixed range; save it with 8 or 16 bits"
_SCALE = "scale it to 8 or 16 bits"
_SAY_BITS = "have the file say how many bits there are (MaxSampleValue of a TIFF, sBIT of a PNG)"
_SAY_DARK = "if it is dark in truth, have the file say so (MaxSampleValue 65535 of a TIFF, sBIT 16 of a PNG)"


class Page(NamedTuple):
    """An image, RGB and upright, and how many pages or frames its file has, of which it is the first.

    Of DICOM it may be another frame, and has a ``source``, by which results refer back to it.
    """

    image: Image.Image
    pages: int
    source: Source | None = None


def quiet() -> None:
    """Have what reads files say nothing of odd ones, in a process that is ours alone: errors tell what is wrong.

    Warning filters and loggers are the whole process's, so that reading itself leaves them alone. What pydicom says has
    values of the header in it, which may be the patient's.
    """
    for package in ("PIL", "pydicom", "nibabel"):
        warnings.filterwarnings("ignore", module=rf"{package}\.")
        logging.getLogger(package).setLevel(logging.CRITICAL)


def read(
    path: str | os.PathLike[str] | IO[bytes],
    *,
    max_pixels: int | None = None,
    window: tuple[float, float] | None = None,
    frame: int = 0,
) -> Image.Image:
    """A photograph as RGB, upright.

    The orientation in its EXIF data is applied, what is transparent is laid on white, 16-bit greys are scaled down,
    and of several pages or frames the first is taken. docs/files.md lists the formats. Of DICOM the values are rescaled
    and windowed, and any frame is read; see docs/dicom.md.

    Parameters
    ----------
    path : str or path, or a binary file
    max_pixels : int, optional
        Refuse an image whose header promises more, before it is decoded. Pillow's own limit holds all the same.
    window : (float, float), optional
        Of DICOM: centre and width of the values that are shown, instead of the file's own.
    frame : int
        Of DICOM, from 0; other files have the first alone.

    Raises
    ------
    UnreadableError
        If it is missing, in no format that is read, damaged, or what its values mean can't be known.
    TooLargeError
        If it has too many pixels.
    """
    return first_page(path, max_pixels=max_pixels, window=window, frame=frame).image


def first_page(
    path: str | os.PathLike[str] | IO[bytes] | Instance,
    *,
    max_pixels: int | None = None,
    window: tuple[float, float] | None = None,
    frame: int = 0,
) -> Page:
    """The same, and how many pages there are.

    Smaller copies of a page, as pyramids and cameras' files have them, are no pages.

    Parameters
    ----------
    path : str or path, or a binary file, or an Instance
        The last is a file of DICOM whose header is read already.
    max_pixels, window, frame
        As :func:`read`.

    Returns
    -------
    Page

    Raises
    ------
    UnreadableError, TooLargeError
        As :func:`read`.
    """
    if isinstance(path, Instance):
        with _refusing():
            return Page(*dicom.read_dicom(path, frame=frame, window=window, max_pixels=max_pixels))
    with _refusing(), _binary(path) as file:
        if _is_dicom(file):
            return Page(*dicom.read_dicom(file, frame=frame, window=window, max_pixels=max_pixels))
        if frame:
            raise UnreadableError(f"frame: expected the first, as it is no file of DICOM; got {frame + 1}")
        source = _Source.of(file)
        with source.open(max_pixels) as image:
            found = _rgb(source.upright(image), _Depth.of(source))
            return Page(found, len(source.pages) or _frames(image))


class Stored(NamedTuple):
    """The first page of a file in the mode that its file has it in, upright.

    ``lossy`` is whether its format may change values, ``never_exact`` whether it always may.
    """

    image: Image.Image
    lossy: bool
    never_exact: bool


def stored(path: str | os.PathLike[str] | IO[bytes]) -> Stored:
    """An image whose values mean something else than colours, such as a mask.

    Parameters
    ----------
    path : str or path, or a binary file

    Raises
    ------
    UnreadableError, TooLargeError
        As :func:`read`, but values of any size are taken.
    """
    with _refusing(), _binary(path) as file:
        if _is_dicom(file):
            raise UnreadableError("DICOM, of which no values are read that mean something else than shades")
        source = _Source.of(file)
        with source.open() as image:
            upright, depth = source.upright(image), _Depth.of(source)
            if upright.mode == "F":
                raise UnreadableError(_FLOATING)
            if upright.mode.startswith("I"):
                if depth.inverted:
                    upright = Image.fromarray((depth.white or _WHITE) - np.asarray(upright))
            elif depth.deep:
                _check_kept(upright)
            if source.samples is not None and source.samples.ones_are_meant():
                upright = Image.fromarray(~np.asarray(upright))
            return Stored(upright, source.kind.lossy, source.kind.name == "JPEG")


def dimensions(path: str | os.PathLike[str] | IO[bytes]) -> tuple[int, int]:
    """Width and height of a photograph as its header has them; nothing is decoded.

    Parameters
    ----------
    path : str or path, or a binary file

    Raises
    ------
    UnreadableError, TooLargeError
        As :func:`read`, as far as the header shows it.
    """
    with _refusing(), _binary(path) as file:
        if _is_dicom(file):
            instance = Instance(file)
            return instance.columns, instance.rows
        source = _Source.of(file)
        if source.kind.name == "JXL":
            head = jpeg_xl.read_head(file)
            return head.width, head.height
        with source.open() as image:
            return image.size


@contextmanager
def _refusing() -> Iterator[None]:
    """Inside, a file is read: whatever is wrong with it is an UnreadableError."""
    try:
        yield
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _beyond_pillows_limit() from None
    except MemoryError:
        raise UnreadableError("not enough memory to decode it") from None
    except Exception as error:  # what a decoder raises on damaged data is anything: SyntaxError, struct.error, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableError(reason) from error


def _binary(path: str | os.PathLike[str] | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    if isinstance(path, (str, os.PathLike)):
        check_regular(path)
        return open(path, "rb")
    return nullcontext(path if path.seekable() else io.BytesIO(path.read()))


def _is_dicom(file: IO[bytes]) -> bool:
    file.seek(0)
    kind = formats.recognise(file.read(formats.HEAD))
    if kind.name == formats.DICOM:
        kind.make_ready()
    return kind.name == formats.DICOM


class _Source(NamedTuple):
    """A file, its format, and of a TIFF its pages and the samples of the first."""

    file: IO[bytes]
    kind: Format
    pages: list[tiff.Page]
    samples: tiff.Samples | None

    @classmethod
    def of(cls, file: IO[bytes]) -> _Source:
        file.seek(0)
        kind = formats.recognise(file.read(formats.HEAD))
        kind.make_ready()
        pages = tiff.pages(file) if kind.name == "TIFF" else []
        samples = tiff.Samples(file, pages[0]) if pages else None
        if samples is not None:
            samples.check()
        return cls(file, kind, pages, samples)

    def open(self, max_pixels: int | None = None) -> Image.Image:
        """The first page, of no more pixels than are allowed, and not decoded yet."""
        if self.kind.name == "JXL":  # its decoder is done when it says how large the image is
            head = jpeg_xl.read_head(self.file)
            _check_size((head.width, head.height), max_pixels)
            if head.animated:
                raise UnreadableError("an animation in JPEG XL, which is not read: save its frames as PNG")
        try:
            image = Image.open(self.file, formats=(self.kind.name,))
        except UnidentifiedImageError:
            raise (
                UnreadableError(f"a damaged {self.kind.title}") if self.samples is None else self.samples.refusal()
            ) from None
        if self.pages:
            image.seek(self.pages[0].frame)
        _check_size(image.size, max_pixels)
        return image

    def upright(self, image: Image.Image) -> Image.Image:
        """The image, decoded, as its EXIF data say that it is to be seen."""
        # A JPEG XL was turned by its decoder, whatever its EXIF data say, unless there was a JPEG in it.
        turned = self.kind.name == "JXL" and not getattr(image, "jpeg", False)
        return image if turned else ImageOps.exif_transpose(image)


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    pixels = size[0] * size[1]
    # Pillow only warns of an image up to twice its limit.
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise _beyond_pillows_limit()
    if max_pixels is not None and pixels > max_pixels:
        raise TooLargeError(f"{size[0]} x {size[1]}, more than the limit of {max_pixels:,} pixels")


def _beyond_pillows_limit() -> TooLargeError:
    return TooLargeError(f"more than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,} pixels")


def _frames(image: Image.Image) -> int:
    """How many pages an image has, without the smaller copies that cameras put behind the first."""
    entries = getattr(image, "mpinfo", {}).get(0xB002)
    if entries is not None:
        return 1 + sum("Thumbnail" not in entry["Attribute"]["MPType"] for entry in entries[1:])
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a GIF is damaged behind the first frame, which is read by now
        return image.tell() + 1


class _Depth(NamedTuple):
    """What a file says of its samples.

    ``white`` is the value of white of 16-bit samples as they are stored; None where nothing tells it. ``deep`` is
    whether there are 16 bits where Pillow gives 8, the higher ones. ``padded`` is the number of bits that a PNG says to
    have been scaled to 16, which not all who write it do. Below ``narrow`` samples look like 12 bits or fewer.
    """

    white: int | None = _WHITE
    deep: bool = False
    inverted: bool = False
    padded: int = 0
    narrow: int = _TWELVE_BITS

    @classmethod
    def of(cls, source: _Source) -> _Depth:
        if source.samples is not None:
            return cls(source.samples.white, source.samples.bits == 16, source.samples.white_is_zero)
        if source.kind.name == "PNG":
            deep, significant = bit_depth.of_png(source.file)
            if deep:
                told = significant == 16
                return cls(_WHITE if told else None, True, padded=0 if told else significant)
        if source.kind.name == "JPEG2000" and bit_depth.of_jpeg_2000(source.file) == 16:
            return cls(None, True, narrow=_LOSSY_TWELVE_BITS)
        if source.kind.name == "JXL":
            return cls(None, narrow=_LOSSY_TWELVE_BITS)
        return cls()  # the others' decoders scale to 16 bits by what the header says


def _rgb(image: Image.Image, depth: _Depth) -> Image.Image:
    if image.mode == "F":
        raise UnreadableError(_FLOATING)
    if image.mode.startswith("I"):
        return _grey(image, depth)
    if depth.deep:
        _check_colours(image, depth)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image, depth: _Depth) -> Image.Image:
    """RGB of an image of one channel of whole numbers, up to 16 bits."""
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > _WHITE:
        raise UnreadableError("its pixels are integers beyond 16 bits; save it with 8 or 16 bits")
    white = depth.white
    if depth.padded:
        # What was scaled to 16 bits, as it should be, has zeros in its lower ones where it is dark.
        stored = most < 1 << depth.padded and bool((values % (1 << (16 - depth.padded))).any())
        white = (1 << depth.padded) - 1 if stored else _WHITE
    if white is None and 0 < most <= depth.narrow:
        raise UnreadableError(
            f"no value of its 16-bit greys is above {depth.narrow:,}: they look like 12 bits or fewer stored in 16, "
            f"which would be nearly black, and nothing in the file tells; {_SCALE}, or {_SAY_BITS}"
        )
    white = _WHITE if white is None or most > white else white
    scaled = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    if depth.inverted:
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255  # on white
    return Image.fromarray(scaled).convert("RGB")


def _check_colours(image: Image.Image, depth: _Depth) -> None:
    """Refuse 16-bit colours of which Pillow has kept nothing: it gives their higher 8 bits."""
    told = depth.white or (1 << depth.padded) - 1
    white = told or depth.narrow
    if white < _WHITE and _all_below(image, white):
        raise UnreadableError(
            f"no value of its 16-bit colours is above {(white >> 8) * 256 + 255:,}: they look like fewer bits stored "
            f"in 16, which would be nearly black, and Pillow gives their higher 8 bits alone; {_SCALE}"
            + ("" if told else f", or, {_SAY_DARK}")
        )


def _check_kept(image: Image.Image) -> None:
    """Refuse labels of 16 bits in several channels, if the lower 8 bits, which Pillow leaves out, may be all there is.

    What the file says of its bits tells nothing: a label is no shade.
    """
    if _all_below(image, _TWELVE_BITS):
        raise UnreadableError(
            f"no value of its 16-bit colours is above {_TWELVE_BITS:,}, and Pillow gives their higher 8 bits alone, in "
            "which labels such as 0 and 1 are the same; save it with 8 bits, or with 16 and one channel"
        )


def _all_below(image: Image.Image, white: int) -> bool:
    """Whether no colour of 16 bits is above `white`, as far as the higher 8 bits tell."""
    extrema = image.getextrema()
    colours = extrema[:-1] if image.mode.endswith(("A", "a")) else extrema
    most = max(int(high) for _, high in colours)  # type: ignore[misc]
    opaque = colours is extrema
    return 0 < most <= white >> 8 or (most == 0 and opaque and image.mode != "CMYK")
