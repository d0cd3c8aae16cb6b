"""What the samples of a file mean, as shades of 8 bits, or why that can't be known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from .formats import UnreadableError

#: The largest value of 12 bits. A 16-bit picture that stays below would be nearly black.
TWELVE_BITS = 0xFFF
#: The same where compression may have added to it.
LOSSY_TWELVE_BITS = 0x13FF
WHITE = 0xFFFF
FLOATING = "its pixels are floating-point numbers of no fixed range; save it with 8 or 16 bits"
_SCALE = "scale it to 8 or 16 bits"
_SAY_BITS = "have the file say how many bits there are (MaxSampleValue of a TIFF, sBIT of a PNG)"
_SAY_DARK = "if it is dark in truth, have the file say so (MaxSampleValue 65535 of a TIFF, sBIT 16 of a PNG)"


class Depth(NamedTuple):
    """What a file says of its samples.

    ``white`` is the value of white of 16-bit samples as they are stored; None where nothing tells it. ``deep`` is
    whether there are 16 bits where Pillow gives 8, the higher ones. ``padded`` is the number of bits that a PNG says to
    have been scaled to 16, which not all who write it do. Below ``narrow`` samples look like 12 bits or fewer.
    """

    white: int | None = WHITE
    deep: bool = False
    inverted: bool = False
    padded: int = 0
    narrow: int = TWELVE_BITS


def rgb(image: Image.Image, depth: Depth) -> Image.Image:
    """The image in RGB, what is transparent laid on white.

    Raises
    ------
    UnreadableError
        If its values are no shades, or nobody knows which.
    """
    if image.mode == "F":
        raise UnreadableError(FLOATING)
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


def _grey(image: Image.Image, depth: Depth) -> Image.Image:
    """RGB of an image of one channel of whole numbers, up to 16 bits."""
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > WHITE:
        raise UnreadableError("its pixels are integers beyond 16 bits; save it with 8 or 16 bits")
    white = depth.white
    if depth.padded:
        # What was scaled to 16 bits, as it should be, has zeros in its lower ones where it is dark.
        stored = most < 1 << depth.padded and bool((values % (1 << (16 - depth.padded))).any())
        white = (1 << depth.padded) - 1 if stored else WHITE
    if white is None and 0 < most <= depth.narrow:
        raise UnreadableError(
            f"no value of its 16-bit greys is above {depth.narrow:,}: they look like 12 bits or fewer stored in 16, "
            f"which would be nearly black, and nothing in the file tells; {_SCALE}, or {_SAY_BITS}"
        )
    white = WHITE if white is None or most > white else white
    scaled = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    if depth.inverted:
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255  # on white
    return Image.fromarray(scaled).convert("RGB")


def _check_colours(image: Image.Image, depth: Depth) -> None:
    """Refuse 16-bit colours of which Pillow has kept nothing: it gives their higher 8 bits."""
    told = depth.white or (1 << depth.padded) - 1
    white = told or depth.narrow
    if white < WHITE and _all_below(image, white):
        raise UnreadableError(
            f"no value of its 16-bit colours is above {(white >> 8) * 256 + 255:,}: they look like fewer bits stored "
            f"in 16, which would be nearly black, and Pillow gives their higher 8 bits alone; {_SCALE}"
            + ("" if told else f", or, {_SAY_DARK}")
        )


def check_kept(image: Image.Image) -> None:
    """Refuse labels of 16 bits in several channels, if the lower 8 bits, which Pillow leaves out, may be all there is.

    What the file says of its bits tells nothing: a label is no shade.

    Raises
    ------
    UnreadableError
    """
    if _all_below(image, TWELVE_BITS):
        raise UnreadableError(
            f"no value of its 16-bit colours is above {TWELVE_BITS:,}, and Pillow gives their higher 8 bits alone, in "
            "which labels such as 0 and 1 are the same; save it with 8 bits, or with 16 and one channel"
        )


def _all_below(image: Image.Image, white: int) -> bool:
    """Whether no colour of 16 bits is above `white`, as far as the higher 8 bits tell."""
    extrema = image.getextrema()
    colours = extrema[:-1] if image.mode.endswith(("A", "a")) else extrema
    most = max(int(high) for _, high in colours)  # type: ignore[misc]
    opaque = colours is extrema
    return 0 < most <= white >> 8 or (most == 0 and opaque and image.mode != "CMYK")
