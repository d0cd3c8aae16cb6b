"""Images of DICOM: a frame as a model sees it, and the header's part of it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ..errors import UnreadableError, check_regular
from . import places, tables, windows
from .files import Instance, refusing
from .pixels import Stored, stored
from .source import Source


class Image(NamedTuple):
    """A frame, RGB; how many of them its file has; and what results refer back to."""

    image: Pillow.Image
    frames: int
    source: Source


def read_dicom(
    file: str | os.PathLike[str] | IO[bytes] | Instance,
    *,
    frame: int = 0,
    window: tuple[float, float] | None = None,
    max_pixels: int | None = None,
) -> Image:
    """A frame of a file of DICOM as RGB, as it is stored: neither turned nor stretched.

    Stored values are rescaled to their units, and shown by `window`, or by the file's own window or VOI LUT. Without
    any, greys of up to 8 bits are taken as they are, and of others the range from the 1st to the 99th percentile.
    MONOCHROME1 is inverted, palettes and luminance with chrominance become RGB. docs/dicom.md has the details.

    Parameters
    ----------
    file : str or path, a binary file, or an Instance
    frame : int
        From 0.
    window : (float, float), optional
        Centre and width, in the units of the file: centre - width / 2 is black, centre + width / 2 white.
    max_pixels : int, optional
        Refuse frames whose header promises more, before any is decoded. Pillow's own limit holds all the same.

    Returns
    -------
    Image

    Raises
    ------
    ImportError
        If pydicom is not installed.
    OSError
        If the file can't be opened.
    UnreadableError
        If it is damaged, no image, has no such frame, or is of a kind that is not read or has no decoder; the message
        says which.
    TooLargeError
        If it has too many pixels.
    """
    if isinstance(file, Instance):
        return _read(file, frame, window, max_pixels)
    with opened(file) as found:
        return _read(Instance(found), frame, window, max_pixels)


def opened(file: str | os.PathLike[str] | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """A file by its path, closed at the end; one that is open already is left so.

    Raises
    ------
    OSError
        If it can't be opened.
    UnreadableError
        If it is no regular file.
    """
    if not isinstance(file, (str, os.PathLike)):
        return nullcontext(file)
    check_regular(file)
    return open(file, "rb")


def source(instance: Instance, frame: int) -> Source:
    """What results of a frame refer back to.

    Parameters
    ----------
    instance : Instance
    frame : int
        From 0.

    Raises
    ------
    UnreadableError
        If what it says of its place can't be read.
    """
    with refusing("its place"):
        plane = places.plane(instance.header, frame)
    return Source(
        headers=(instance.header,),
        frame=frame if instance.frames > 1 else None,
        grid=None if plane is None else plane.grid(instance.rows, instance.columns),
    )


def _read(instance: Instance, frame: int, window: tuple[float, float] | None, max_pixels: int | None) -> Image:
    instance.check_size(max_pixels, Pillow.MAX_IMAGE_PIXELS)
    found = stored(instance, frame)
    with refusing("its values"):
        pixels = _rgb(found, instance, frame, window)
    return Image(Pillow.fromarray(pixels), instance.frames, source(instance, frame))


def _rgb(found: Stored, instance: Instance, frame: int, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    values = found.values
    if found.photometric == "PALETTE COLOR":
        return tables.coloured(values, instance.header)
    if found.photometric in ("MONOCHROME1", "MONOCHROME2") and values.ndim == 2:
        grey = windows.shades(values, instance.header, frame, bits=found.bits, window=window)
        return np.repeat(grey[..., None], 3, axis=-1)
    if found.photometric != "RGB" or values.ndim != 3 or values.shape[-1] != 3:
        raise UnreadableError(f"DICOM whose colours are {found.photometric[:16]}, which is not read")
    if found.bits == 8:
        return values.astype(np.uint8)
    white = (1 << found.bits) - 1
    colours: NDArray[np.uint8] = ((np.minimum(values, white).astype(np.uint64) * 255 + white // 2) // white).astype(
        np.uint8
    )
    return colours
