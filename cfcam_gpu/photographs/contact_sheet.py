"""Pictures of many explanations at a glance: photographs beside their overlays, or beside their components.

Drawn by Pillow: matplotlib's text is not shortened to a tile, makes no room for the lines that it wraps and warns of
each letter that its font lacks, and 60 photographs take it four times as long.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..results import fonts, overlays

#: More would make a picture that few viewers open.
LIMIT = 60
#: Of a sheet of components, which has a row for each photograph.
ROWS = 12

TILE = 224
GAP = 6  # between a photograph and its overlay
SPACE = 36  # between cells, and around them
CAPTION = 62
HEADER = 116  # at least: a head of more lines is higher
COLUMNS = 4
SCALE = 200  # the width of the colour scale
WIDE = 900  # sheets from here on have it beside their title

INK, FAINT, PAPER, ALARM = "#1b1f24", "#69727d", "#ffffff", "#b3261e"


class Entry(NamedTuple):
    """A photograph as the model saw it and its overlay, both RGB; what the model says it is; the file's name."""

    photograph: Image.Image
    overlay: Image.Image
    label: str
    probability: float | None
    caption: str


class Group(NamedTuple):
    """Some channels: overlay, share of the evidence, how many, and the class's probability without them, if known."""

    overlay: Image.Image
    share: float
    channels: int
    probability_without: float | None

    @property
    def told(self) -> str:
        """What is said below its share."""
        count = f"{self.channels} channel{'s' * (self.channels != 1)}"
        return count if self.probability_without is None else f"{count}; {self.probability_without:.1%} without"


class Row(NamedTuple):
    """An entry and the groups of channels of its map."""

    entry: Entry
    groups: Sequence[Group]


def thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    """`pixels` (H, W, 3) as a square of the size that it has on the sheet; what is no square has paper around it."""
    return ImageOps.pad(Image.fromarray(pixels), (TILE, TILE), Image.Resampling.LANCZOS, color=PAPER)


def draw(entries: Sequence[Entry], *, title: str, subtitle: str, alarm: str = "") -> Image.Image:
    """The sheet.

    Parameters
    ----------
    entries : sequence of Entry
        At least one; images of the size that :func:`thumbnail` gives.
    title, subtitle : str
        At the head.
    alarm : str
        Said at the head in red.

    Returns
    -------
    RGB image
    """
    width, height = 2 * TILE + GAP, TILE + CAPTION
    # As near as can be to a screen's 3:2.
    columns = min(COLUMNS, len(entries), max(1, round(math.sqrt(len(entries) * 1.5 * height / width))))
    columns = max(columns, min(2, len(entries)))
    rows = math.ceil(len(entries) / columns)
    head = _head(columns * (width + SPACE) + SPACE, title, subtitle, alarm)
    sheet = Image.new("RGB", (head.width, head.height + rows * (height + SPACE) + SPACE // 2), PAPER)
    sheet.paste(head)
    pen = ImageDraw.Draw(sheet)
    for i, entry in enumerate(entries):
        x, y = SPACE + i % columns * (width + SPACE), head.height + i // columns * (height + SPACE)
        sheet.paste(entry.photograph, (x, y))
        sheet.paste(entry.overlay, (x + TILE + GAP, y))
        y += TILE + 10
        share = "" if entry.probability is None else f"{entry.probability:.1%}"
        room = width - pen.textlength(share, _font(20)) - 12
        _write(pen, (x, y), entry.label, 20, room, INK, bold=True)
        pen.text((x + width, y), share, INK, _font(20), anchor="ra")
        _write(pen, (x, y + 28), entry.caption, 15, width, FAINT)
    return sheet


def draw_components(rows: Sequence[Row], *, title: str, subtitle: str, alarm: str = "") -> Image.Image:
    """A sheet with a row for each photograph: itself, its overlay, and the overlays of its groups.

    Parameters
    ----------
    rows : sequence of Row
        At least one; images of the size that :func:`thumbnail` gives.
    title, subtitle, alarm : str
        As for :func:`draw`.

    Returns
    -------
    RGB image
    """
    width, height = TILE + GAP, TILE + CAPTION
    columns = 2 + max(len(row.groups) for row in rows)
    head = _head(columns * width - GAP + 2 * SPACE, title, subtitle, alarm)
    sheet = Image.new("RGB", (head.width, head.height + len(rows) * (height + GAP) + SPACE // 2), PAPER)
    sheet.paste(head)
    pen = ImageDraw.Draw(sheet)
    for i, (entry, groups) in enumerate(rows):
        count = f"{len(groups)} group{'s' * (len(groups) != 1)}"
        probability = "" if entry.probability is None else f"{entry.probability:.1%}, "
        tiles = [
            (entry.photograph, entry.label, probability + entry.caption),
            (entry.overlay, "all evidence", f"{sum(group.share for group in groups):.0%} of it in {count}"),
            *((group.overlay, f"{group.share:.0%}", group.told) for group in groups),
        ]
        for j, (image, says, more) in enumerate(tiles):
            x, y = SPACE + j * width, head.height + i * (height + GAP)
            sheet.paste(image, (x, y))
            y += TILE + 10
            _write(pen, (x, y), says, 20, TILE, INK, bold=True)
            _write(pen, (x, y + 28), more, 15, TILE, FAINT)
    return sheet


def color_scale(width: int = SCALE, height: int = 12) -> Image.Image:
    """The colours of overlays over white, from no evidence on the left to the strongest on the right."""
    evidence = torch.linspace(0, 1, width).expand(1, height, -1)
    return Image.fromarray(overlays.overlay(evidence, torch.ones(1, 3, height, width))[0].numpy())


def _head(width: int, title: str, subtitle: str, alarm: str) -> Image.Image:
    """Title and subtitle, in as many lines as they take; on the right, or below, what the colours mean."""
    wide = width > WIDE
    room = width - 2 * SPACE - (SCALE + SPACE if wide else 0)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines, y = [], 24
    # Each with the distance to its next line, and to what follows.
    for text, font, ink, step, after in (
        (title, _font(24, title, bold=True), INK, 30, 4),
        (subtitle, _font(15, subtitle), FAINT, 20, 4),
        (alarm, _font(15, bold=True), ALARM, 20, 4),
    ):
        for line in _wrapped(pen, text, font, room):
            lines.append((y, line, font, ink))
            y += step
        y += after
    scale = 35 if wide else y + 4
    head = Image.new("RGB", (width, max(HEADER, y + 12 if wide else y + 52)), PAPER)
    pen = ImageDraw.Draw(head)
    for y, line, font, ink in lines:
        pen.text((SPACE, y), line, ink, font)
    _draw_scale(head, pen, width - SPACE - SCALE if wide else SPACE, scale)
    return head


def _draw_scale(head: Image.Image, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
    bar = color_scale()
    head.paste(bar, (left, top + 1))
    pen.rectangle((left - 1, top, left + bar.width, top + 1 + bar.height), outline=FAINT)
    pen.text((left, top + 19), "no evidence", FAINT, _font(14))
    pen.text((left + bar.width, top + 19), "strongest", FAINT, _font(14), anchor="ra")


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: float) -> list[str]:
    """`text` in lines, broken between words, and in one that is longer than a line behind a mark, if it has one."""
    lines, line = [], ""
    for word in _printable(text).split():
        if line and pen.textlength(f"{line} {word}", font) > room:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while pen.textlength(line, font) > room:
            kept = max(1, _fitting(pen, line, font, room))
            kept = max(line.rfind(mark, kept // 2, kept) for mark in "./:_-") + 1 or kept
            lines.append(line[:kept])
            line = line[kept:]
    return [*lines, line] if line else lines


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, room: float, ink: str, *, bold: bool = False
) -> None:
    font = _font(size, text, bold=bold)
    pen.text(at, _shortened(pen, text, font, room), ink, font)


def _shortened(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """`text` on one line, its end cut off where it is too long."""
    text = _printable(text)
    if pen.textlength(text, font) <= room:
        return text
    return text[: _fitting(pen, text, font, room, "…")] + "…"


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: float, end: str = "") -> int:
    """How many of the first letters of `text` fit, with `end` behind them."""
    return bisect.bisect(range(1, len(text)), room, key=lambda count: pen.textlength(text[:count] + end, font))


def _printable(text: str) -> str:
    """`text` without what can't be drawn on a line."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _font(size: int, text: str = "", *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """One that has the letters of a text."""
    return ImageFont.truetype(fonts.file_for(text, bold=bold), size)
