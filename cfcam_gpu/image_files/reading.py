"""Photographs read with Pillow: right pixels as RGB, or why not."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..scans.dicom import reading as dicom
from ..scans.dicom.files import Instance
from ..scans.dicom.source import Source
from ..scans.errors import check_regular
from . import bands, bit_depth, formats, jpeg_xl, shades, tiff
from .formats import Format, UnreadableError
from .preparation import Preparation


class Page(NamedTuple):
    """An image, RGB and upright, and how many pages or frames its file has, of which it is the first.

    Of DICOM it may be another frame, and has a ``source``, by which results refer back to it. What is no photograph is
    an array (H, W, C) of the values in its file.
    """

    image: Image.Image | NDArray[Any]
    pages: int
    source: Source | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size if isinstance(self.image, Image.Image) else self.image.shape[1::-1]


def quiet() -> None:
    """Have what reads files say nothing of odd ones, in a process that is ours alone: errors tell what is wrong.

    Warning filters and loggers are the whole process's, so that reading itself leaves them alone. What pydicom says has
    values of the header in it, which may be the patient's.
    """
    for package in ("PIL", "pydicom", "nibabel", "tifffile"):
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
    image = first_page(path, max_pixels=max_pixels, window=window, frame=frame).image
    assert isinstance(image, Image.Image)  # nothing takes an array
    return image


def first_page(
    path: str | os.PathLike[str] | IO[bytes] | Instance,
    *,
    max_pixels: int | None = None,
    window: tuple[float, float] | None = None,
    frame: int = 0,
    takes: Preparation | None = None,
) -> Page:
    """The same, and how many pages there are.

    Smaller copies of a page, as pyramids and cameras' files have them, are no pages.

    Parameters
    ----------
    path : str or path, or a binary file, or an Instance
        The last is a file of DICOM whose header is read already.
    max_pixels, window, frame
        As :func:`read`.
    takes : Preparation, optional
        What it is read for: of other bands than colours, or of values in the files' own units, these are read. Then
        the arrays of NumPy are taken, too. See :mod:`cfcam_gpu.image_files.bands`.

    Returns
    -------
    Page

    Raises
    ------
    UnreadableError, TooLargeError
        As :func:`read`.
    """
    own_units = takes is not None and takes.own_units
    if isinstance(path, Instance):
        with _refusing():
            _check_shades(own_units, takes)
            return Page(*dicom.read_dicom(path, frame=frame, window=window, max_pixels=max_pixels))
    with _refusing(), _binary(path) as file:
        values = None if takes is None else bands.read(file, takes, max_pixels)
        if values is None and _is_dicom(file):
            _check_shades(own_units, takes)
            return Page(*dicom.read_dicom(file, frame=frame, window=window, max_pixels=max_pixels))
        if frame:
            raise UnreadableError(f"frame: expected the first, as it is no file of DICOM; got {frame + 1}")
        if values is not None:
            return Page(values, 1)
        source = _Source.of(file)
        with source.open(max_pixels) as image:
            upright, depth = source.upright(image), _depth(source)
            if own_units and (depth.deep or upright.mode[:1] in "IF"):
                raise UnreadableError(
                    "its values are of more than 8 bits, and mean and std are in the files' own units, which other "
                    "files than TIFF and arrays of NumPy (.npy) are not read in"
                )
            return Page(shades.rgb(upright, depth), len(source.pages) or _frames(image))


def _check_shades(own_units: bool, takes: Preparation | None) -> None:
    """Refuse DICOM where nobody knows whether mean and std are of its own values, or of the shades that are shown."""
    if own_units and takes is not None and takes.channels == 1:
        raise UnreadableError(
            "DICOM, of which a window's shades are read: expected mean and std of values in [0, 1], not in units of "
            "their own"
        )


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
            upright, depth = source.upright(image), _depth(source)
            if upright.mode == "F":
                raise UnreadableError(shades.FLOATING)
            if upright.mode.startswith("I"):
                if depth.inverted:
                    upright = Image.fromarray((depth.white or shades.WHITE) - np.asarray(upright))
            elif depth.deep:
                shades.check_kept(upright)
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
        raise formats.beyond_pillows_limit() from None
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
            formats.check_size((head.width, head.height), max_pixels)
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
        formats.check_size(image.size, max_pixels)
        return image

    def upright(self, image: Image.Image) -> Image.Image:
        """The image, decoded, as its EXIF data say that it is to be seen."""
        # A JPEG XL was turned by its decoder, whatever its EXIF data say, unless there was a JPEG in it.
        turned = self.kind.name == "JXL" and not getattr(image, "jpeg", False)
        return image if turned else ImageOps.exif_transpose(image)


def _frames(image: Image.Image) -> int:
    """How many pages an image has, without the smaller copies that cameras put behind the first."""
    entries = getattr(image, "mpinfo", {}).get(0xB002)
    if entries is not None:
        return 1 + sum("Thumbnail" not in entry["Attribute"]["MPType"] for entry in entries[1:])
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a GIF is damaged behind the first frame, which is read by now
        return image.tell() + 1


def _depth(source: _Source) -> shades.Depth:
    """What a file says of its samples."""
    if source.samples is not None:
        return shades.Depth(source.samples.white, source.samples.bits == 16, source.samples.white_is_zero)
    if source.kind.name == "PNG":
        deep, significant = bit_depth.of_png(source.file)
        if deep:
            told = significant == 16
            return shades.Depth(shades.WHITE if told else None, True, padded=0 if told else significant)
    if source.kind.name == "JPEG2000" and bit_depth.of_jpeg_2000(source.file) == 16:
        return shades.Depth(None, True, narrow=shades.LOSSY_TWELVE_BITS)
    if source.kind.name == "JXL":
        return shades.Depth(None, narrow=shades.LOSSY_TWELVE_BITS)
    return shades.Depth()  # the others' decoders scale to 16 bits by what the header says
