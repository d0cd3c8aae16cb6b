"""What of an explanation a page or a figure shows: pictures on the host, and the words beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from . import colours
from .record import Record, arranged

Pixels: TypeAlias = NDArray[np.uint8]
#: A position in a map.
Place: TypeAlias = tuple[int, ...]


class Panel(NamedTuple):
    """A map, or a slice of one, in colour: RGB, (h, w, 3). A signal's has the height 1, and its lines beside it.

    Parameters
    ----------
    photograph : (h, w, 3) uint8 or None
        What was explained, where it is known; None of a signal.
    map : (h, w, 3) uint8
        In the full range of the colours.
    overlay : (h, w, 3) uint8
        The map over the photograph; over white where that is not known, and of a signal.
    note : str
        Of a volume, which slice it is, counted from 0.
    lines : (C, L) float64 or None
        Of a signal.
    """

    photograph: Pixels | None
    map: Pixels
    overlay: Pixels
    note: str = ""
    lines: NDArray[np.float64] | None = None


class Row(NamedTuple):
    """A map of an explanation: what it explains, whether it is empty, its panels, three of a volume, and where."""

    name: str
    probability: float | None
    empty: bool
    panels: list[Panel]
    place: Place


def rows_of(
    explanation: Record,
    images: torch.Tensor | None,
    *,
    alpha: float,
    colormap: str,
    places: Sequence[Place] | None = None,
) -> list[Row]:
    """Every map of an explanation, B or B x T, with the images (B, ...) that it is of, or others of their size.

    Slices of volumes are those through `places`, one for each map; by default through its peak.
    """
    maps = explanation.maps.flatten(0, int(explanation.several)).cpu()
    names: list[str] = []
    for of_image in explanation.classes:
        names += [of_image] if isinstance(of_image, str) else of_image
    shares = explanation.probability.flatten().tolist()
    empty = explanation.empty.flatten().tolist()
    pictures = None if images is None else arranged(explanation, images).detach()
    layout = explanation.layers[0].layout if explanation.layers else None
    apart = layout is not None and layout.folded is not None
    rows = []
    for i, (name, share, is_empty) in enumerate(zip(names, shares, empty, strict=True)):
        picture = None if pictures is None else pictures[i // explanation.per_image].cpu()
        place = _peak(maps[i]) if places is None else places[i]
        panels = drawn(maps[i], picture, place, alpha=alpha, colormap=colormap, apart=apart)
        rows.append(Row(name, None if math.isnan(share) else share, is_empty, panels, place))
    return rows


def _peak(map_: torch.Tensor) -> Place:
    """Where a map is strongest; the middle of one that is empty."""
    if not map_.any():
        return tuple(side // 2 for side in map_.shape)
    return tuple(int(place) for place in np.unravel_index(int(map_.argmax()), map_.shape))


def drawn(
    map_: torch.Tensor,
    image: torch.Tensor | None,
    place: Place,
    *,
    alpha: float,
    colormap: str,
    apart: bool = False,
) -> list[Panel]:
    """A map (H, W) over its image (C, H, W), on the host; of a volume the three slices through a place.

    With `apart` the first axis of a volume is one of images, and only the one at the place is shown.
    """
    shown = None if image is None else colours.unit_range(image[None])[0]
    if map_.ndim == 1:
        lines = None if image is None else image.double().numpy()
        return [_panel(map_[None], None, alpha, colormap)._replace(lines=lines)]
    if map_.ndim == 2:
        return [_panel(map_, shown, alpha, colormap)]
    panels = []
    for axis in range(1 if apart else 3):
        part = None if shown is None else shown.select(axis + 1, place[axis])
        note = f"image {place[0]}" if apart else f"{'DHW'[axis]} = {place[axis]}"
        panels.append(_panel(map_.select(axis, place[axis]), part, alpha, colormap)._replace(note=note))
    return panels


def _panel(map_: torch.Tensor, shown: torch.Tensor | None, alpha: float, colormap: str) -> Panel:
    """Of (h, w) and (1 or 3, h, w) in [0, 1]."""
    behind = torch.ones(1, 1, *map_.shape) if shown is None else shown[None]
    alone = (colours.in_colour(map_, colormap) * 255).round().to(torch.uint8).numpy()
    over = colours.blend(map_[None], behind, alpha=alpha, colormap=colormap)[0].numpy()
    photograph = None
    if shown is not None:
        photograph = (shown.expand(3, -1, -1).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    return Panel(photograph, alone, over)
