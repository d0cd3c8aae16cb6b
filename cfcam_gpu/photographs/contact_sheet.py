"""Pictures of many explanations at a glance: photographs beside their overlays, or beside their components."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..results import overlays

#: More would make a picture that few viewers open.
LIMIT = 60
#: Of a sheet of components, which has a row for each photograph.
ROWS = 12

TILE = 224
GAP = 6  # between a photograph and its overlay
SPACE = 36  # between cells, and around them
CAPTION = 62
HEADER = 116
COLUMNS = 4

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
    """Square `pixels` (H, W, 3) as an image of the size that it has on the sheet."""
    return Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS)


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
    sheet = Image.new("RGB", (columns * (width + SPACE) + SPACE, rows * (height + SPACE) + HEADER + SPACE // 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    _head(sheet, pen, title, subtitle, alarm)
    for i, entry in enumerate(entries):
        x, y = SPACE + i % columns * (width + SPACE), HEADER + i // columns * (height + SPACE)
        sheet.paste(entry.photograph, (x, y))
        sheet.paste(entry.overlay, (x + TILE + GAP, y))
        y += TILE + 10
        share = "" if entry.probability is None else f"{entry.probability:.1%}"
        room = width - pen.textlength(share, _font(20)) - 12
        pen.text((x, y), _shortened(pen, entry.label, _font(20, bold=True), room), INK, _font(20, bold=True))
        pen.text((x + width, y), share, INK, _font(20), anchor="ra")
        pen.text((x, y + 28), _shortened(pen, entry.caption, _font(15), width), FAINT, _font(15))
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
    size = (columns * width - GAP + 2 * SPACE, len(rows) * (height + GAP) + HEADER + SPACE // 2)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    _head(sheet, pen, title, subtitle, alarm)
    for i, (entry, groups) in enumerate(rows):
        count = f"{len(groups)} group{'s' * (len(groups) != 1)}"
        probability = "" if entry.probability is None else f"{entry.probability:.1%}, "
        tiles = [
            (entry.photograph, entry.label, probability + entry.caption),
            (entry.overlay, "all evidence", f"{sum(group.share for group in groups):.0%} of it in {count}"),
            *((group.overlay, f"{group.share:.0%}", group.told) for group in groups),
        ]
        for j, (image, says, more) in enumerate(tiles):
            x, y = SPACE + j * width, HEADER + i * (height + GAP)
            sheet.paste(image, (x, y))
            y += TILE + 10
            pen.text((x, y), _shortened(pen, says, _font(20, bold=True), TILE), INK, _font(20, bold=True))
            pen.text((x, y + 28), _shortened(pen, more, _font(15), TILE), FAINT, _font(15))
    return sheet


def _head(sheet: Image.Image, pen: ImageDraw.ImageDraw, title: str, subtitle: str, alarm: str) -> None:
    """Title and subtitle on the left; on the right what the colours mean, where there is room for it."""
    room = sheet.width - 2 * SPACE
    if sheet.width > 900:
        evidence = torch.linspace(0, 1, 200).expand(1, 12, -1)
        bar = Image.fromarray(overlays.overlay(evidence, torch.ones(1, 3, 12, 200))[0].numpy())
        left = sheet.width - SPACE - bar.width
        sheet.paste(bar, (left, 36))
        pen.rectangle((left - 1, 35, left + bar.width, 36 + bar.height), outline=FAINT)
        pen.text((left, 54), "no evidence", FAINT, _font(14))
        pen.text((left + bar.width, 54), "strongest", FAINT, _font(14), anchor="ra")
        room -= bar.width + SPACE
    pen.text((SPACE, 24), _shortened(pen, title, _font(24, bold=True), room), INK, _font(24, bold=True))
    pen.text((SPACE, 58), _shortened(pen, subtitle, _font(15), room), FAINT, _font(15))
    if alarm:
        pen.text((SPACE, 82), _shortened(pen, alarm, _font(15, bold=True), room), ALARM, _font(15, bold=True))


def _shortened(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """`text`, its end cut off where it is too long, and without what can't be drawn on one line."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if pen.textlength(text, font) <= room:
        return text
    kept = bisect.bisect(range(1, len(text)), room, key=lambda count: pen.textlength(text[:count] + "…", font))
    return text[:kept] + "…"


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings along a font that has most of the world's letters.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
