"""Boxes drawn on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..results import fonts

_LINE, _EDGE, _INK = (255, 255, 255), (0, 0, 0), (0, 0, 0)


def with_boxes(picture: torch.Tensor, boxes: torch.Tensor, words: Sequence[str] = ()) -> torch.Tensor:
    """A picture with boxes on it, and what is said of each at its upper left corner.

    Parameters
    ----------
    picture : (H, W, 3) uint8 tensor
    boxes : (N, 4) tensor
        x1, y1, x2, y2 in pixels.
    words : sequence of N str, optional

    Returns
    -------
    (H, W, 3) uint8 tensor on the picture's device
    """
    drawn = Image.fromarray(picture.cpu().numpy())
    pen = ImageDraw.Draw(drawn)
    unit = max(1, round(min(drawn.size) / 250))
    size = max(10, round(min(drawn.size) / 28))
    for i, (left, top, right, bottom) in enumerate(boxes.round().int().tolist()):
        right, bottom = max(left, min(right, drawn.width - 1)), max(top, min(bottom, drawn.height - 1))
        # White between black, to be seen on any colour.
        pen.rectangle((left, top, right, bottom), outline=_EDGE, width=3 * unit)
        inner = (left + unit, top + unit, right - unit, bottom - unit)
        if inner[0] <= inner[2] and inner[1] <= inner[3]:
            pen.rectangle(inner, outline=_LINE, width=unit)
        if i < len(words):
            _write(drawn, pen, ImageFont.truetype(fonts.file_for(words[i]), size), words[i], left, top)
    return torch.from_numpy(np.array(drawn)).to(picture.device)


def _write(
    drawn: Image.Image, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str, left: int, top: int
) -> None:
    """Black on white, within the picture: above the box where there is room, else in it."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    box = pen.textbbox((0, 0), text, font)
    width, height = int(box[2]) + 6, int(box[3]) + 4
    x = max(0, min(left, drawn.width - width))
    y = top - height if top >= height else min(top, max(0, drawn.height - height))
    pen.rectangle((x, y, x + width, y + height), fill=_LINE)
    pen.text((x + 3, y + 1), text, _INK, font)
