"""An explanation as a notebook shows it: HTML that needs nothing beside itself."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..hooks.target_layer import in_words
from ..methods import METHODS
from . import colours, panels, parts, signals
from .panels import Panel, Pixels, Row
from .record import Record

#: Maps that are shown, the others are counted; pixels of a picture's longer side.
MOST, SIDE = 12, 168
#: Pixels of the colour scale, and the height of a signal's map where its lines are not known.
_SCALE, _STRIP = (168, 10), 40

# Text has the colour that the notebook gives it, on light and on dark. No style sheet: some sites remove these.
_FAINT = "opacity:.7;font-size:90%"
_ROW = "display:flex;flex-wrap:wrap;gap:14px 22px;align-items:flex-start"


def page(explanation: Record) -> str:
    """The first maps of an explanation as a strip of pictures, with what each explains, and the scale of colours.

    The images are shown where they are as they were: see :class:`cfcam_gpu.results.seen.Seen`.
    """
    total = len(explanation) * explanation.per_image
    few = parts.part(explanation, range(min(len(explanation), max(1, MOST // explanation.per_image))))
    images = few.seen.images() if few.seen is not None else None
    rows = panels.rows_of(few, images, alpha=0.6, colormap="turbo")[:MOST]
    more = f", of which {len(rows)} are shown" if len(rows) < total else ""
    method = METHODS[explanation.method].title if explanation.method in METHODS else explanation.method
    layers = in_words(explanation.layers)
    count = f"{total} map{'s' * (total != 1)}{more}"
    title = f"{method} at {layers}; {count}" if layers else f"{method}; {count}"
    missing = ""
    if images is None and rows:
        missing = (
            f'<div style="{_FAINT};margin-top:8px">The images are gone, or may have changed, so the maps are shown '
            "alone; <code>result.figure(images)</code> shows both.</div>"
        )
    return (
        f'<div><div style="{_FAINT};margin-bottom:8px">{html.escape(title)}</div>'
        f'<div style="{_ROW}">{"".join(_cell(row) for row in rows)}</div>{_scale() if rows else ""}{missing}</div>'
    )


def _cell(row: Row) -> str:
    """A map's pictures, and below them what it explains."""
    share = "" if row.probability is None else f" {row.probability:.1%}"
    warning = '<div style="font-size:90%"><b>Empty: no evidence for it was found.</b></div>' if row.empty else ""
    lines = "".join(_line(panel, row.name) for panel in row.panels)
    return (
        f'<div><div style="display:flex;flex-wrap:wrap;gap:14px">{lines}</div>'
        f'<div style="max-width:{2 * SIDE}px;overflow-wrap:anywhere;margin-top:4px"><b>{html.escape(row.name)}</b>'
        f"{share}</div>{warning}</div>"
    )


def _line(panel: Panel, name: str) -> str:
    pictures = "".join(_img(pixels, what) for pixels, what in zip(_pictures(panel), _alternatives(panel, name)))
    note = f'<div style="{_FAINT}">{html.escape(panel.note)}</div>' if panel.note else ""
    return f'<div><div style="display:flex;gap:4px">{pictures}</div>{note}</div>'


def _img(pixels: Pixels, what: str) -> str:
    return (
        f'<img src="{_png(pixels)}" alt="{html.escape(what, quote=True)}" style="margin:0;max-width:100%;'
        f'outline:1px solid rgba(128,128,128,.4)">'
    )


def _alternatives(panel: Panel, name: str) -> Sequence[str]:
    """What pictures say where they can't be seen."""
    return (f"Map of {name}",) if panel.photograph is None else ("Image", f"Map of {name} over the image")


def _pictures(panel: Panel) -> list[Pixels]:
    if panel.lines is not None:
        return [signals.picture(panel.overlay, panel.lines)]
    if panel.overlay.shape[0] == 1:
        return [np.asarray(Image.fromarray(panel.overlay).resize((2 * SIDE, _STRIP), Image.Resampling.BILINEAR))]
    found = [panel.overlay] if panel.photograph is None else [panel.photograph, panel.overlay]
    return [_small(pixels) for pixels in found]


def _small(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = Image.Resampling.LANCZOS if scale < 3 else Image.Resampling.NEAREST  # pixels of a tiny image are seen as such
    return np.asarray(Image.fromarray(pixels).resize(size, way))


def _scale() -> str:
    evidence = torch.linspace(0, 1, _SCALE[0]).expand(1, _SCALE[1], -1)
    bar = colours.blend(evidence, torch.ones(1, 1, *evidence.shape[1:]), alpha=0.6, colormap="turbo")[0].numpy()
    return (
        f'<div style="display:flex;gap:8px;align-items:center;margin-top:10px">'
        f'<span style="{_FAINT}">no evidence</span>'
        f'{_img(bar, "Scale of colours")}<span style="{_FAINT}">strongest</span></div>'
    )


def _png(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
