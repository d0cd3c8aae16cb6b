"""Greys of DICOM: what stored values mean, and which of them are shown as black and as white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnreadableError
from . import tables
from .groups import group

#: Of the values, where nothing says which are to be seen.
PERCENTILES = (1, 99)
#: The least and the largest number that float32 holds in full.
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def meant(values: NDArray[Any], header: Any, frame: int) -> NDArray[Any]:
    """Stored values in their units, such as Hounsfield units: float32 where that holds them, or float64.

    Parameters
    ----------
    values : (H, W) array
    header : pydicom.Dataset
    frame : int

    Raises
    ------
    UnreadableError
        If its slope and intercept take them beyond what float32 holds.
    """
    item = group(header, frame, "PixelValueTransformationSequence") or header
    if header.get("ModalityLUTSequence"):
        table = header.ModalityLUTSequence[0]
        data = tables.entries(header, table, table.LUTDescriptor, "LUTData")
        return tables.looked_up(values, table.LUTDescriptor, data).astype(np.float32)
    # float32 holds 24 bits.
    kind = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    slope, intercept = _number(item, "RescaleSlope"), _number(item, "RescaleIntercept")
    if header.get("Modality") == "RTDOSE":
        slope = _number(header, "DoseGridScaling")
    factor, offset = 1.0 if slope is None else slope, intercept or 0.0
    # The largest whole number, or 1, as floating-point values may be infinite themselves.
    most = 2.0 ** (8 * values.dtype.itemsize) if values.dtype.kind in "iu" else 1.0
    if not abs(factor) * most + abs(offset) < _MOST:
        raise UnreadableError("DICOM whose Rescale Slope and Intercept make values that are not finite")
    result: NDArray[Any] = values.astype(kind)
    with np.errstate(over="ignore", invalid="ignore"):
        if factor != 1:
            result *= kind(factor)
        if offset:
            result += kind(offset)
    return result


def own_window(header: Any, frame: int, *, whole: bool) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window that a file names, or None.

    The first two are such that values from centre - width / 2 to centre + width / 2 are shown, which is half a step
    and one step less of DICOM's LINEAR.

    Parameters
    ----------
    header : pydicom.Dataset
    frame : int
    whole : bool
        Whether the stored values are whole numbers, of which LINEAR is.
    """
    item = group(header, frame, "FrameVOILUTSequence") or header
    centre, width = _number(item, "WindowCenter"), _number(item, "WindowWidth")
    if centre is None or width is None or not (np.isfinite([centre, width]).all() and width > 0):
        return None
    function = str(item.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and whole and width >= 1:
        return centre - 0.5, width - 1, function
    return centre, width, function


def shades(
    values: NDArray[Any], header: Any, frame: int, *, bits: int, window: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Stored values of a frame as they are to be seen, 0 black and 255 white.

    By `window`, or the file's own window, or its VOI LUT; without any, values of 8 bits are taken as they are, and of
    others the range between two percentiles, padding left out.

    Parameters
    ----------
    values : (H, W) array
    header : pydicom.Dataset
    frame : int
    bits : int
        Of the stored values.
    window : (float, float) or None
    """
    found = meant(values, header, frame)
    own = own_window(header, frame, whole=values.dtype.kind in "iu")
    if window is not None:
        light = scaled(found, *window)
    elif own is not None:
        light = _sigmoid(found, *own[:2]) if own[2] == "SIGMOID" else scaled(found, *own[:2])
    elif header.get("VOILUTSequence"):
        light = _by_table(found, header, _ends(header, bits))
    else:
        light = scaled(found, *_range(found, values, header, bits))
    if header.PhotometricInterpretation == "MONOCHROME1":
        light = 1 - light
    shown: NDArray[np.uint8] = (np.nan_to_num(light) * 255 + 0.5).astype(np.uint8)
    return shown


def scaled(values: NDArray[Any], centre: float, width: float) -> NDArray[Any]:
    """Values from centre - width / 2 to centre + width / 2 as 0 to 1, and those beyond as 0 and 1."""
    if width <= 0:
        return (values > centre).astype(np.float32)
    kind = values.dtype.type if abs(centre) < _MOST and _LEAST < width < _MOST else np.float64
    values = values.astype(kind, copy=False)  # NumPy 1 doesn't widen it for a scalar
    with np.errstate(over="ignore", invalid="ignore"):
        result: NDArray[Any] = np.clip((values - kind(centre)) / kind(width) + kind(0.5), 0, 1)
    return result


def _sigmoid(values: NDArray[Any], centre: float, width: float) -> NDArray[Any]:
    steepness = np.clip(-4 * (values - centre) / width, -80, 80)
    result: NDArray[Any] = 1 / (1 + np.exp(steepness))
    return result


def _by_table(values: NDArray[Any], header: Any, ends: tuple[float, float]) -> NDArray[Any]:
    table = header.VOILUTSequence[0]
    count, first, bits = map(int, table.LUTDescriptor)
    # Without VRs a reader takes its sign from the stored values; it is that of their meanings (PS3.3 C.11.2.1.1).
    if first > 0x7FFF and ends[0] < 0:
        first -= 1 << 16
    data = tables.entries(header, table, (count, first, bits), "LUTData")
    white = (1 << bits) - 1
    shown = np.minimum(tables.looked_up(np.rint(values), (count, first, bits), data), white)
    light: NDArray[Any] = (shown / np.float32(white)).astype(np.float32)
    return light


def _ends(header: Any, bits: int) -> tuple[float, float]:
    """What the least and the largest number of so many bits mean."""
    signed = header.get("PixelRepresentation") == 1
    ends = [-(1 << (bits - 1)), (1 << (bits - 1)) - 1] if signed else [0, (1 << bits) - 1]
    low, high = sorted(meant(np.array(ends), header, 0).tolist())
    return low, high


def _range(found: NDArray[Any], stored: NDArray[Any], header: Any, bits: int) -> tuple[float, float]:
    """Centre and width of what is shown where nothing says it."""
    if stored.dtype.kind in "iu" and bits <= 8 and not header.get("ModalityLUTSequence"):
        low, high = _ends(header, bits)  # as any other picture of 8 bits
    else:
        known = found[np.isfinite(found) & ~_padding(stored, header)]
        if not known.size:
            return 0.0, 0.0
        low, high = np.percentile(known, PERCENTILES).tolist()
        if low == high:
            low, high = float(known.min()), float(known.max())
    return (low + high) / 2, high - low


def _padding(stored: NDArray[Any], header: Any) -> NDArray[np.bool_]:
    """Where there is no image: at the value, or in the range, that says so."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(stored.shape, bool)
    end = header.get("PixelPaddingRangeLimit")
    low, high = sorted((value, end if isinstance(end, int) else value))
    return (stored >= low) & (stored <= high)


def _number(item: Any, name: str) -> float | None:
    value = item.get(name)
    if value is None or value == "" or (not isinstance(value, (int, float)) and len(value) == 0):
        return None
    return float(value if isinstance(value, (int, float)) else value[0])
