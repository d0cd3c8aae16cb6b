"""A volume and its map as a picture: three planes through the place of the strongest evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..results import overlays
from .grid import Grid

#: Pixels of the longest side of a plane.
SIDE = 320
GAP = 8
#: Pixels around the place that its cross leaves free.
_FREE = 9
_CROSS, _LETTERS, _FAINT = (255, 255, 255), (255, 220, 90), (190, 190, 190)


class Pictures(NamedTuple):
    """The volume alone, and with its map in colour, each RGB; and where the planes cross, in millimetres."""

    plain: Image.Image
    overlay: Image.Image
    place: tuple[float, float, float]


class _Plane(NamedTuple):
    """A plane by its name: the axes of the world that its columns and rows lie on, both against their direction.

    ``letters`` stand at its left, right, upper and lower border.
    """

    name: str
    across: int
    down: int
    letters: str


#: As radiologists see them: the patient's right is on the left.
_PLANES = (
    _Plane("coronal", 0, 2, "RLSI"),
    _Plane("sagittal", 1, 2, "APSI"),
    _Plane("axial", 0, 1, "RLAP"),
)


def draw(
    shades: NDArray[np.uint8], grid: Grid, evidence: NDArray[np.float32], on: Grid, *, placed: bool = True
) -> Pictures:
    """The coronal, sagittal and axial plane of the world through the peak of a map.

    Pixels are squares of the world, also of an oblique volume, of which the planes are not slices.

    Parameters
    ----------
    shades : (D, H, W) uint8
        The volume, 0 black and 255 white.
    grid : Grid
        Where it lies.
    evidence : (D, H, W) float32 in [0, 1]
        The map. Of an empty one the planes cross in the middle of the volume.
    on : Grid
        Where that lies.
    placed : bool
        False where the file doesn't say where the patient's sides are: then no letters do.

    Returns
    -------
    Pictures
        With the letters of the patient's sides at the borders: the patient's right on the left, as radiologists have
        it.
    """
    middle = (np.array(grid.shape) - 1) / 2
    place = on.world(_peak(evidence)) if evidence.max() > 0 else grid.world(middle)
    corners = np.stack(np.meshgrid(*[(-0.5, side - 0.5) for side in grid.shape], indexing="ij"), axis=-1)
    borders = grid.world(corners.reshape(-1, 3))
    low, high = borders.min(axis=0), borders.max(axis=0)
    pixel = float((high - low).max()) / SIDE
    cells = [_cell(plane, place, low, high, pixel) for plane in _PLANES]
    greys = [grid.sampled(shades, cell.grid) for cell in cells]
    maps = [on.sampled(evidence, cell.grid) for cell in cells]
    plain = [np.repeat(np.rint(grey[0]).astype(np.uint8)[..., None], 3, axis=-1) for grey in greys]
    coloured = [_coloured(grey, found) for grey, found in zip(greys, maps)]
    x, y, z = place.tolist()
    told = (x, y, z) if placed else None
    return Pictures(_laid(cells, plain, told), _laid(cells, coloured, told), (x, y, z))


def _peak(evidence: NDArray[np.float32]) -> NDArray[np.float64]:
    """Where a map is strongest; of many such voxels that which is nearest to the middle of them all."""
    strongest = np.argwhere(evidence >= evidence.max()).astype(np.float64)
    nearest: NDArray[np.float64] = strongest[np.linalg.norm(strongest - strongest.mean(axis=0), axis=1).argmin()]
    return nearest


class _Cell(NamedTuple):
    """A plane in the picture: where its pixels, (1, h, w), lie, and the column and row of the place."""

    plane: _Plane
    grid: Grid
    cross: tuple[float, float]


def _cell(
    plane: _Plane, place: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], pixel: float
) -> _Cell:
    sides = [max(1, round(float(high[axis] - low[axis]) / pixel)) for axis in (plane.down, plane.across)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    affine[:3, 3] = place
    affine[3 - plane.across - plane.down, 0] = pixel
    for column, axis in ((1, plane.down), (2, plane.across)):
        affine[axis, column] = -pixel
        affine[axis, 3] = high[axis] - pixel / 2
    across, down = ((high[axis] - place[axis]) / pixel - 0.5 for axis in (plane.across, plane.down))
    return _Cell(plane, Grid((1, sides[0], sides[1]), affine), (float(across), float(down)))


def _coloured(grey: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.uint8]:
    image = torch.from_numpy(grey)[None] / 255
    drawn: NDArray[np.uint8] = overlays.overlay(torch.from_numpy(found).clamp(0, 1), image)[0].numpy()
    return drawn


def _laid(
    cells: Sequence[_Cell], pixels: Sequence[NDArray[np.uint8]], place: tuple[float, float, float] | None
) -> Image.Image:
    """The planes in a square: coronal and sagittal above, axial below, and beside it where they cross."""
    edge = 2 * SIDE + 3 * GAP
    picture = Image.new("RGB", (edge, edge))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for at, (cell, own) in enumerate(zip(cells, pixels)):
        height, width = own.shape[:2]
        left = GAP + at % 2 * (SIDE + GAP) + (SIDE - width) // 2
        top = GAP + at // 2 * (SIDE + GAP) + (SIDE - height) // 2
        picture.paste(Image.fromarray(own), (left, top))
        _cross(pen, (left, top, width, height), cell.cross)
        ends = [
            ("lm", left + 3, top + height / 2),
            ("rm", left + width - 4, top + height / 2),
            ("ma", left + width / 2, top + 2),
            ("md", left + width / 2, top + height - 3),
        ]
        for letter, (anchor, x, y) in zip(cell.plane.letters if place else "", ends):
            pen.text((x, y), letter, _LETTERS, font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    corner = 2 * GAP + SIDE + 12
    if place is None:
        said, note = "", "the file does not say\nwhich sides these are"
    else:
        lines = [f"{letters[value >= 0]} {abs(value):.1f} mm" for value, letters in zip(place, ("LR", "PA", "IS"))]
        said, note = "\n".join(lines), "the patient's right\nis on the left"
    pen.multiline_text((corner, corner), said, _CROSS, font, spacing=6)
    pen.multiline_text((corner, corner + 80), note, _FAINT, font, spacing=6)
    return picture


def _cross(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], at: tuple[float, float]) -> None:
    """Lines through the place, broken there so that it can be seen."""
    left, top, width, height = box
    x, y = left + at[0], top + at[1]
    for ends in (
        (left, y, x - _FREE, y),
        (x + _FREE, y, left + width - 1, y),
        (x, top, x, y - _FREE),
        (x, y + _FREE, x, top + height - 1),
    ):
        if ends[0] <= ends[2] and ends[1] <= ends[3]:
            pen.line(ends, _CROSS)
