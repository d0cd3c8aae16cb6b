"""Masks of objects, as labelling and drawing tools write them: which pixels are the object's, or why nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..image_files import reading

Mask: TypeAlias = NDArray[np.bool_]

_EXPECTED = (
    "expected 0 for what is not the object and one other value for what is; or a palette whose first colour is black, "
    "and 255 void; or the object opaque on a transparent ground"
)
#: Index of a palette at which a label is void, as in PASCAL VOC: neither object nor ground, and not counted as object.
_VOID = 255
#: More values than these are not listed.
_SHOWN = 6
#: An object of a lossy format that is not brighter can't be told from what compression adds to the ground.
_DARKEST = 16
#: How far from black and from the object's level a value of lossy greys or of alpha may lie where all around it is the
#: same: a part of that level, or so many steps.
_OFF, _OFF_STEPS = 1 / 8, 12
#: The part of all values that may lie in the middle half between, where edges are.
_BETWEEN = 1 / 4


def read(path: Path) -> Mask:
    """The object's pixels, (H, W), upright.

    - Transparent ground: what is opaque (alpha above half of the object's) is the object.
    - One channel, or grey colours: 0 is not the object, and the one other value is; 1, 128, 255 or 65535, say.
    - A palette in colour whose first colour is black: every other index but 255, which is void.
    - Other colours: what is not black, where there are black and one colour.
    - Where compression may have changed values, as JPEG does: what is brighter than half of the object.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If it can't be read, or has other values; the message names the file.
    """
    try:
        return _object(reading.stored(path))
    except ValueError as error:
        raise ValueError(f"mask: {path}: {error}") from None


def _object(stored: reading.Stored) -> Mask:
    image = stored.image
    if image.has_transparency_data:
        colours = np.asarray(image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA"))
        if colours[..., 3].min() < 255:
            return _opaque(colours)
        image = image if image.mode == "P" else image.convert("RGB")
    if stored.lossy and not image.mode.startswith("I"):
        return _brighter(np.asarray(image.convert("L")), never_exact=stored.never_exact)
    if image.mode == "P":
        black_first = not any((image.getpalette() or [1])[:3])
        return _of_palette(np.asarray(image), np.asarray(image.convert("RGB")), black_first=black_first)
    if len(image.getbands()) == 1:
        return _of_values(np.asarray(image))
    return _of_colours(np.asarray(image.convert("RGB")))


def _opaque(colours: NDArray[np.uint8]) -> Mask:
    found = _above_half(colours[..., 3], "its alpha")
    inside = colours[found][:, :3]
    black = ~inside.any(axis=-1)
    others = inside[~black]
    if black.any() and len(others) and (others == others[0]).all():
        raise ValueError(f"black and another colour are opaque beside a transparent ground; {_EXPECTED}")
    return found


def _brighter(greys: NDArray[np.uint8], *, never_exact: bool) -> Mask:
    levels = np.unique(greys)
    if levels[0] == 0 and len(levels) <= (1 if never_exact else 2):
        return greys > 0
    if levels[-1] < _DARKEST:
        raise ValueError(
            f"none of its values is above {levels[-1]}, which is too dark to be told from what its lossy format adds; "
            f"save it as PNG; {_EXPECTED}"
        )
    return _above_half(greys, "its values, in a lossy format,")


def _above_half(values: NDArray[np.uint8], what: str) -> Mask:
    """What is above half of the level of all that is bright, if there are no other levels."""
    bright = values[values > values.max() / 2]
    level = float(np.median(bright)) if len(bright) else 0.0
    off = np.minimum(values, np.abs(values - level))
    image = Image.fromarray(values)
    least, most = (
        np.asarray(image.filter(extreme(5))).astype(int) for extreme in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    even = most - least <= max(2, level / 32)
    others = values[even & (off > max(level * _OFF, _OFF_STEPS))]
    if len(others):
        raise ValueError(f"{what} are around 0, {level:.0f} and {np.median(others):.0f}; {_EXPECTED}")
    if (off > level / 4).mean() > _BETWEEN:
        raise ValueError(f"{what} are everywhere from 0 to {values.max()}; {_EXPECTED}")
    return values > level / 2


def _of_values(values: NDArray[np.generic]) -> Mask:
    levels = np.unique(values)
    if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
        said = ", ".join(map(str, levels[:_SHOWN])) + (", ..." if len(levels) > _SHOWN else "")
        raise ValueError(f"its values are {said}; {_EXPECTED}")
    return values.astype(bool)


def _of_palette(indices: NDArray[np.uint8], colours: NDArray[np.uint8], *, black_first: bool) -> Mask:
    # Greys are what they look like: which index they have is an accident of whoever saved them.
    if _is_grey(colours) or not black_first:
        return _of_colours(colours)
    found: Mask = (indices > 0) & (indices != _VOID)
    return found


def _of_colours(colours: NDArray[np.uint8]) -> Mask:
    if _is_grey(colours):
        return _of_values(colours[..., 0])
    found: Mask = np.any(colours, axis=-1)
    others = colours[found]
    if found.all() or not (others == others[0]).all():
        raise ValueError(f"it has other colours than black and one more; {_EXPECTED}")
    return found


def _is_grey(colours: NDArray[np.uint8]) -> bool:
    return bool((colours == colours[..., :1]).all())
