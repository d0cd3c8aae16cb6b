"""Look-up tables of DICOM: modality, VOI and palettes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnreadableError


def looked_up(values: NDArray[Any], descriptor: Any, data: NDArray[Any]) -> NDArray[Any]:
    """What a table has for whole numbers; those before its first entry get this, those behind its last that.

    Parameters
    ----------
    values : array of whole numbers
    descriptor : sequence of 3 int
        How many entries, the first value that one is for, and bits of each.
    data : (N,) array
        From :func:`entries`.
    """
    places = np.clip(values.astype(np.int64) - int(descriptor[1]), 0, len(data) - 1)
    found: NDArray[Any] = data[places]
    return found


def entries(header: Any, item: Any, descriptor: Any, name: str) -> NDArray[Any]:
    """The entries of a table, of 8 or 16 bits, in whichever of the forms of PS3.3 C.7.6.3.1.6 and C.11 the file has it.

    Parameters
    ----------
    header : pydicom.Dataset
        Tells the order of bytes.
    item : pydicom.Dataset
        Has the table.
    descriptor : sequence of 3 int
    name : str
        The keyword of the data.

    Raises
    ------
    UnreadableError
        If there are fewer than the descriptor says.
    """
    count = int(descriptor[0]) or 1 << 16
    data = item[name].value
    _, little = header.original_encoding
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
    else:
        words = np.atleast_1d(np.asarray(data)).astype(np.uint16)
    if len(words) >= count:
        return words[:count].astype(np.uint16)
    # Two entries of 8 bits in a word.
    octets = words.astype("<u2").view(np.uint8)
    if len(octets) < count:
        raise UnreadableError(f"a damaged file of DICOM: {name} has {len(words)} words for {count} entries")
    return octets[:count]


def coloured(values: NDArray[Any], header: Any) -> NDArray[np.uint8]:
    """The colours of a palette's indices: (H, W, 3) uint8.

    Parameters
    ----------
    values : (H, W) array of whole numbers
    header : pydicom.Dataset

    Raises
    ------
    UnreadableError
        If the palette is damaged, or of a kind that is not read.
    """
    descriptor = header.RedPaletteColorLookupTableDescriptor
    if "RedPaletteColorLookupTableData" in header:
        tables = [
            entries(header, header, descriptor, f"{colour}PaletteColorLookupTableData")
            for colour in ("Red", "Green", "Blue")
        ]
        colours = np.stack([looked_up(values, descriptor, table) for table in tables], axis=-1)
        most = max(int(table.max()) for table in tables)
    else:
        from pydicom.pixels.processing import apply_color_lut

        count = int(descriptor[0]) or 1 << 16
        if descriptor[2] == 8 and count > 256:  # pydicom counts places by the entries' own bits
            raise UnreadableError(
                "DICOM with a segmented palette of more than 256 entries of 8 bits, which is not read"
            )
        colours = apply_color_lut(values, header)[..., :3]
        most = int(colours.max())
    # Some have 8 bits in words, whatever the descriptor says.
    wide = colours.dtype.itemsize > 1 and most > 0xFF
    # White is 0xFFFF in some, and 0xFF00 in others.
    return (colours >> 8 if wide else colours).astype(np.uint8)
