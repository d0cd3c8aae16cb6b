"""Rows of pictures as a figure for a paper: pictures in their own resolution, text as text."""

from __future__ import annotations

import io
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..hooks import guard
from . import fonts, signals
from .panels import Pixels

DPI = 200
#: Inches: between cells, a line of text, the colour bar with its words, and how high a signal's cell is for its width.
GAP, LINE, FOOT, SIGNAL = 0.04, 0.125, 0.36, 0.4
#: Inches: the widest picture, and what is left free at the right edge.
WIDEST, EDGE = 2.3, 0.02
#: Points.
SIZE, SMALL = 7.0, 6.0
#: Names are shown as they are: "$" begins no formula, and LaTeX, where the user's settings ask for it, is not asked.
_PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
#: Text stays text in files: fonts of which journals take either kind, and letters that can be searched and edited.
_FILES: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}


class Cell(NamedTuple):
    """A picture, or a signal over the colours of its map, and the words below it and on it."""

    pixels: Pixels
    lines: NDArray[np.float64] | None = None
    below: str = ""
    within: str = ""


class PaperFigure(Figure):
    """A figure that pyplot does not know of: it keeps text as text in files, and shows itself in a notebook."""

    #: Whether it has letters that no font has, which was said once: matplotlib would, of each, whenever it is drawn.
    lacks_letters = False

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's."""
        with matplotlib.rc_context(_FILES), self._quiet():
            super().savefig(fname, **options)

    def draw(self, renderer: Any) -> None:
        """As matplotlib's."""
        with self._quiet():
            super().draw(renderer)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        if not self.lacks_letters:
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            yield

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw(
    labels: Sequence[str], headings: Sequence[str], cells: Sequence[Sequence[Cell]], width: float, colormap: str
) -> Figure:
    """A figure of rows of cells: headings above the columns, a label beside each row, and the bar of colours below.

    Everything is placed in inches. Letters that no font has are warned of once.
    """
    families, lacking = fonts.families(
        [*labels, *headings, *(text for line in cells for cell in line for text in (cell.below, cell.within))]
    )
    if lacking:
        guard.warn(fonts.told(lacking))
    plain = {**_PLAIN, "fontfamily": families} if families else _PLAIN
    columns = max(map(len, cells))
    left = 2 * LINE + 0.06
    side = (width - left - EDGE - (columns - 1) * GAP) / columns
    if all(cell.lines is None and len(cell.pixels) > 1 for line in cells for cell in line):
        side = min(side, WIDEST)
    width = left + columns * side + (columns - 1) * GAP + EDGE
    # A label stands beside its row, in two lines of about as many letters as the row is high.
    heights, below = [], []
    for line in cells:
        heights.append(max(side * (SIGNAL if cell.lines is not None else _aspect(cell.pixels)) for cell in line))
        below.append(LINE if any(cell.below for cell in line) else 0.0)
    height = LINE + sum(heights) + sum(below) + len(cells) * GAP + FOOT
    figure = PaperFigure(figsize=(width, height), dpi=DPI)
    figure.set_layout_engine("none")  # which the user's settings may name, and which would move what is placed here
    FigureCanvasAgg(figure)
    figure.lacks_letters = bool(lacking)

    def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        """Of the figure, from inches from its left and upper edge."""
        return x / width, 1 - (y + h) / height, w / width, h / height

    top = LINE
    for column, heading in enumerate(headings):
        x = left + column * (side + GAP) + side / 2
        figure.text(x / width, 1 - 0.8 * LINE / height, heading, fontsize=SIZE, ha="center", va="baseline", **plain)
    for label, line, high, under in zip(labels, cells, heights, below):
        letters = max(8, int(high / SIZE * 72 * 1.7 / _width(label)))
        figure.text(
            (left - 0.04) / width,
            1 - (top + high / 2) / height,
            "\n".join(textwrap.wrap(label, letters, max_lines=2, placeholder=" …")),
            fontsize=SIZE,
            rotation=90,
            ha="right",
            va="center",
            multialignment="center",
            **plain,
        )
        for column, cell in enumerate(line):
            x = left + column * (side + GAP)
            axes = figure.add_axes(box(x, top, side, high))
            _fill(axes, cell)
            figure.text(
                (x + side / 2) / width,
                1 - (top + high + 0.8 * LINE) / height,
                cell.below,
                fontsize=SMALL,
                ha="center",
                va="baseline",
                **plain,
            )
        top += high + under + GAP
    length = min(1.6, 0.6 * (width - left))
    bar = figure.add_axes(box(left + (width - left - length) / 2, height - FOOT + 0.1, length, 0.07))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=colormap, aspect="auto", interpolation="nearest", extent=(0, 1, 0, 1))
    bar.set_yticks([])
    bar.set_xticks([0, 1], ["no evidence", "strongest"], fontsize=SMALL, usetex=False)
    bar.tick_params(length=0, pad=2)
    return figure


def _fill(axes: Axes, cell: Cell) -> None:
    if cell.lines is None:
        flat = cell.pixels.shape[0] == 1  # a signal whose lines are not known
        aspect: Literal["auto", "equal"] = "auto" if flat else "equal"
        axes.imshow(cell.pixels, interpolation="none", aspect=aspect, origin="upper")  # settings may say "lower"
    else:
        signals.draw_on(axes, cell.pixels, cell.lines, linewidth=0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    if cell.within:
        paper = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, cell.within, fontsize=SMALL, color="black", bbox=paper, **place, **_PLAIN)


def _width(text: str) -> float:
    """Of a text's letters, beside Latin ones: Chinese, Japanese and Korean ones are twice as wide."""
    return 1 + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text) / max(1, len(text))


def _aspect(pixels: Pixels) -> float:
    height, width = pixels.shape[:2]
    return SIGNAL / 2 if height == 1 else height / width
