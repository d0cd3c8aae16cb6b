"""Images of other bands than colours, and values as they are stored: TIFF of samples or pages, and NumPy's arrays."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .formats import UnreadableError, check_size
from .preparation import Preparation

#: How arrays of NumPy (.npy) and TIFF begin.
_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Axes of tifffile's that may be bands: samples, channels, and pages of no other meaning.
_BANDS = "SCQI"
_NODATA = 42113
_WHITE_IS_ZERO, _PALETTE = 0, 3


def read(file: IO[bytes], takes: Preparation, max_pixels: int | None) -> NDArray[Any] | None:
    """The values of a file as they are stored: (H, W, C). None of what is read as a photograph.

    Parameters
    ----------
    file : binary file
    takes : Preparation
        Says how many channels there are to be.
    max_pixels : int or None
        Refuse more, before they are decoded.

    Raises
    ------
    UnreadableError
        If it has other channels, or which axis they are on can't be known.
    """
    file.seek(0)
    head = file.read(len(_NUMPY))
    file.seek(0)
    if head == _NUMPY:
        return _numpy(file, takes.channels, max_pixels)
    if takes.is_of_photographs or not head.startswith(_TIFF):
        return None
    if find_spec("tifffile") is None:
        raise UnreadableError("a TIFF of bands, which needs tifffile: pip install 'cfcam-gpu[slides]'")
    return _tiff(file, takes.channels, max_pixels)


def _numpy(file: IO[bytes], channels: int, max_pixels: int | None) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    axis = _axis(shape, channels)
    _check(shape, axis, max_pixels)
    if dtype.hasobject:
        raise UnreadableError("an array of Python's objects, which is not read")
    start = file.tell()
    if file.seek(0, 2) - start < math.prod(shape) * dtype.itemsize:
        raise UnreadableError("an array of NumPy that is cut off")
    file.seek(0)
    return _last(np.load(file, allow_pickle=False), axis)


def _axis(shape: tuple[int, ...], channels: int) -> int | None:
    """Which axis of an array is that of the channels; None where it has none.

    Raises
    ------
    UnreadableError
        If none is, or two may be.
    """
    if len(shape) == 2 and channels == 1:
        return None
    wanted = f"expected (H, W, {channels}) or ({channels}, H, W){' or (H, W)' if channels == 1 else ''}"
    fits = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] == channels]
    if not fits:
        raise UnreadableError(f"an array of {shape}: {wanted}")
    if len(fits) == 2:
        raise UnreadableError(
            f"an array of {shape}, of which nobody knows whether its first axis has the channels, "
            "or its last; save it as TIFF, or in another size"
        )
    return fits[0]


def _tiff(file: IO[bytes], channels: int, max_pixels: int | None) -> NDArray[Any] | None:
    import tifffile

    with tifffile.TiffFile(file) as found:
        series = found.series[0]
        page: Any = series.keyframe
        if channels in (1, 3) and page.dtype == np.uint8:
            return None
        others = [one for one in found.series[1:] if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
        if others:
            raise UnreadableError(
                f"a TIFF of {1 + len(others)} images of other shapes; expected the bands as its samples or pages"
            )
        if int(page.photometric) in (_WHITE_IS_ZERO, _PALETTE):
            raise UnreadableError(f"a TIFF whose values are {page.photometric.name}; expected bands, black at 0")
        # Axes of one place say nothing.
        sides = [(axis, side) for axis, side in zip(series.axes, series.shape) if side > 1 or axis in "YX"]
        axes = "".join(axis for axis, _ in sides)
        shape = tuple(side for _, side in sides)
        bands = [axis for axis in axes if axis not in "YX"]
        if axes.replace("".join(bands), "") != "YX" or len(bands) > 1 or not set(bands) <= set(_BANDS):
            raise UnreadableError(f"a TIFF of the axes {axes}, {shape}: expected one of bands beside Y and X")
        axis = axes.index(bands[0]) if bands else None
        if (1 if axis is None else shape[axis]) != channels:
            raise UnreadableError(
                f"a TIFF of {1 if axis is None else shape[axis]} bands; the model takes {channels} channels"
            )
        _check(shape, axis, max_pixels)
        values = series.asarray().reshape(shape)
        nodata = page.tags.get(_NODATA)
        if nodata is not None:
            _check_nodata(values, str(nodata.value).strip("\0 "))
    return _last(values, axis)


def _check(shape: tuple[int, ...], axis: int | None, max_pixels: int | None) -> None:
    height, width = (side for place, side in enumerate(shape) if place != axis)
    if not height or not width:
        raise UnreadableError(f"an array of {shape}, which is empty")
    check_size((width, height), max_pixels)


def _check_nodata(values: NDArray[Any], said: str) -> None:
    """Refuse values that stand for none, but for 0."""
    try:
        none = float(said)
    except ValueError:
        return
    if none and bool((values == none).any()):
        raise UnreadableError(f"it has values that stand for none (nodata {said}); fill them, with 0 say")


def _last(values: NDArray[Any], axis: int | None) -> NDArray[Any]:
    return values[..., None] if axis is None else np.moveaxis(values, axis, -1)
