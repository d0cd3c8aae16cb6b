"""One page, whole in itself: the slide and its maps by deep zoom, and the strongest tiles."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._version import __version__
from .info import SlideInfo
from .pyramid import Raster
from .region import Region
from .strongest import Strong
from .workers import TileReaders

#: Longest side of the slide in the page, in pixels: some megabytes as JPEG.
SIDE = 4096
#: Longest side of a map in the page.
MAP_SIDE = 2048
#: Side of the pieces of a level.
PIECE = 512
QUALITY = 80
COLORMAP = "turbo"


@dataclass(frozen=True, eq=False)
class Map:
    """A map of a class in the page.

    Parameters
    ----------
    name : str
        What its values are.
    levels : sequence of Raster
        The finest first.
    maximum : float
        The value that has the last colour.
    """

    name: str
    levels: Sequence[Raster]
    maximum: float


@dataclass(frozen=True, eq=False)
class Shown:
    """A class in the page.

    Parameters
    ----------
    label : str
        Its name.
    maps : sequence of Map
        The first is shown at first.
    strong : sequence of Strong
    described : sequence of dict
        What is said of them.
    """

    label: str
    maps: Sequence[Map]
    strong: Sequence[Strong]
    described: Sequence[dict[str, Any]]


def render(name: str, info: SlideInfo, cell: float, trained: bool, shown: Sequence[Shown], readers: TileReaders) -> str:
    """Make the page.

    Parameters
    ----------
    name : str
        Of the slide.
    info : SlideInfo
        With its mpp.
    cell : float
        Pixels of level 0 along the side of a pixel of the maps.
    trained : bool
        False where the weights are random.
    shown : sequence of Shown
    readers : TileReaders

    Returns
    -------
    str
        HTML that fetches nothing.

    Raises
    ------
    SlideError
        If the slide can't be read.
    """
    scale = max(Fraction(1), Fraction(max(info.width, info.height), SIDE))
    image = _overview(info, scale, readers)
    data = {
        "slide": {
            "name": name,
            "width": info.width,
            "height": info.height,
            "levels": _levels(image),
            "piece": PIECE,
            "mpp": info.mpp[0] if info.mpp else None,
            "scale": float(scale),
        },
        "trained": trained,
        "classes": [
            {
                "name": one.label,
                "maps": [_map(each, info, cell) for each in one.maps],
                "strongest": [
                    {**said, "image": _uri(strong.pixels, "JPEG"), "overlay": _uri(strong.overlay, "JPEG")}
                    for said, strong in zip(one.described, one.strong)
                ],
            }
            for one in shown
        ],
    }
    room = files(__package__).joinpath("data")
    text = {part: room.joinpath(part).read_text(encoding="utf-8") for part in ("page.html", "page.css", "page.js")}
    viewer = room.joinpath("openseadragon.min.js").read_text(encoding="utf-8")
    licence = room.joinpath("openseadragon.LICENSE.txt").read_text(encoding="utf-8")
    # Nothing that a name holds ends a script.
    said = json.dumps(data).replace("<", "\\u003c")
    marks = {
        "version": __version__,
        "title": html.escape(name),
        "style": text["page.css"],
        "licence": licence.replace("*/", "* /"),
        "viewer": viewer,
        "script": text["page.js"],
        "data": said,
    }
    # All at once: what is put in is no mark of the template.
    return re.sub(r"\{\{ (\w+) \}\}", lambda mark: marks[mark[1]], text["page.html"])


def _overview(info: SlideInfo, scale: Fraction, readers: TileReaders) -> NDArray[np.uint8]:
    """The slide reduced by `scale`, (h, w, 3) uint8."""
    height, width = (max(1, int(side / scale)) for side in (info.height, info.width))
    image = np.empty((height, width, 3), np.uint8)
    places = [(y, x) for y in range(0, height, PIECE) for x in range(0, width, PIECE)]
    regions = (Region(x, y, min(PIECE, width - x), min(PIECE, height - y), scale) for y, x in places)
    for (y, x), pixels in zip(places, readers.tiles(regions)):
        image[y : y + PIECE, x : x + PIECE] = pixels
    return image


def _levels(image: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """The image and its halves, the coarsest first, each in pieces: rows of data URIs."""
    found = []
    level = Image.fromarray(image)
    while True:
        rows = [
            [
                _uri(level.crop((x, y, min(x + PIECE, level.width), min(y + PIECE, level.height))), "JPEG")
                for x in range(0, level.width, PIECE)
            ]
            for y in range(0, level.height, PIECE)
        ]
        found.append({"width": level.width, "height": level.height, "pieces": rows})
        if max(level.size) <= PIECE:
            return found[::-1]
        # As the viewer counts: a level is half of the next, rounded up.
        level = level.resize(((level.width + 1) // 2, (level.height + 1) // 2), Image.Resampling.BOX)


def _map(one: Map, info: SlideInfo, cell: float) -> dict[str, Any]:
    """A map in colour, the higher the less of the slide to be seen, and what it covers of the slide's width."""
    number, raster = next(
        (number, level)
        for number, level in enumerate(one.levels)
        if max(level.height, level.width) <= MAP_SIDE or level is one.levels[-1]
    )
    values = np.nan_to_num(raster.read(0, raster.height)) / (one.maximum or 1.0)
    steps = (values.clip(0, 1) * 255).round().astype(np.uint8)
    colors = matplotlib.colormaps[COLORMAP](np.arange(256), bytes=True)[:, :3]
    picture = np.concatenate([colors[steps], steps[..., None]], axis=-1)
    covers = raster.width * cell * 2**number / info.width
    return {"name": one.name, "maximum": one.maximum, "image": _uri(picture, "PNG"), "covers": covers}


def _uri(pixels: NDArray[np.uint8] | Image.Image, kind: str) -> str:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format=kind, **({"quality": QUALITY} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getbuffer()).decode()}"
