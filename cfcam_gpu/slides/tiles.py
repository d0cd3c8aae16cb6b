"""Which tiles of a slide are explained, and where they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..scans.errors import UnreadableError
from .info import SlideInfo
from .region import Region
from .tissue import Tissue

#: How far from what was asked for, or from a square, counts as near.
NEAR = 0.02
#: Parts of a pixel that the scale is told in, at most.
PARTS = 64
#: Pixels along the longer side of a reduced slide, at least.
LEAST = 64


@dataclass(frozen=True, eq=False)
class Plan:
    """The tiles of a slide.

    All is in pixels of the slide reduced by `scale`, whole ones, so that nothing drifts.

    Parameters
    ----------
    scale : Fraction
        Pixels of level 0 along the side of one; at least 1.
    mpp : float or None
        Micrometres along its side: what was asked for, or within 2 % of it.
    width, height : int
        Of the reduced slide.
    tile, stride : int
        The side of a tile, and how far apart two neighbours begin.
    columns, rows : int
        How many tiles would cover all of the slide, along x and y.
    places : (N, 2) int64 array
        Column and row of each tile that has tissue, row by row.
    """

    scale: Fraction
    mpp: float | None
    width: int
    height: int
    tile: int
    stride: int
    columns: int
    rows: int
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def corners(self) -> NDArray[np.int64]:
        """The (N, 2) left upper corners x, y."""
        return self.places * self.stride

    def region(self, index: int) -> Region:
        """Return what is read of the slide for tile `index`."""
        x, y = self.corners[index].tolist()
        return Region(x, y, self.tile, self.tile, self.scale)


def working_scale(slide: SlideInfo, mpp: float | None = None) -> Fraction:
    """Find what `mpp` is in pixels of level 0.

    A whole number where that is within 2 %, as levels have: no pixel is then made of parts of others.

    Parameters
    ----------
    slide : SlideInfo
    mpp : float, optional
        Micrometres; by default the slide's own.

    Returns
    -------
    Fraction
        Pixels of level 0 along the side of one of `mpp`.

    Raises
    ------
    UnreadableError
        If the slide's pixels are not square.
    ValueError
        If `mpp` is given and the slide's own is not known, is coarser by more than 2 %, or is finer by so much that
        next to nothing would be left of the slide.
    """
    if mpp is None:
        return Fraction(1)
    if slide.mpp is None:
        raise ValueError(f"mpp: expected none, as the slide's file does not say how large its pixels are; got {mpp:g}")
    own = own_mpp(slide.mpp)
    ratio = mpp / own
    longest = max(slide.width, slide.height)
    if ratio > 1 + NEAR and ratio > longest / LEAST:
        raise ValueError(
            f"mpp: expected at most {max(longest / LEAST, 1) * own:.4g}, at which a slide of {longest:,} pixels of "
            f"{own:.4g} micrometres is {min(longest, LEAST)} pixels long; got {mpp:g}"
        )
    whole = round(ratio)
    if whole >= 1 and abs(ratio / whole - 1) <= NEAR:
        return Fraction(whole)
    if ratio < 1:
        raise ValueError(f"mpp: expected at least {own:.4g}, that of the slide's finest level; got {mpp:g}")
    return Fraction(ratio).limit_denominator(PARTS)


def plan(slide: SlideInfo, tissue: Tissue | None, *, scale: Fraction, tile: int = 224, overlap: float = 0.5) -> Plan:
    """Lay tiles over the tissue of a slide, or all of it where `tissue` is None.

    Each tile's middle, as large as its stride, is its own; those at an edge own what is to the edge. A tile is
    taken where its own part has tissue, so that all tissue is near the middle of a tile.

    Parameters
    ----------
    slide : SlideInfo
    tissue : Tissue or None
    scale : Fraction
        Pixels of level 0 along the side of a tile's pixel.
    tile : int
        Side of a tile, in its own pixels.
    overlap : float
        The share of a tile's side that it has in common with the next one; at least 0, and below 1.

    Returns
    -------
    Plan

    Raises
    ------
    UnreadableError
        If the slide's pixels are not square.
    ValueError
        If `tile`, `overlap` or `scale` is out of range.
    """
    if tile < 1:
        raise ValueError(f"tile: expected at least 1 pixel; got {tile}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap: expected a share of a tile's side, at least 0 and below 1; got {overlap:g}")
    if scale < 1:
        raise ValueError(f"scale: expected at least 1, the slide's finest level; got {scale}")
    stride = max(1, round(tile * (1 - overlap)))
    width, height = math.ceil(slide.width / scale), math.ceil(slide.height / scale)
    columns, rows = (1 + max(0, -(-(side - tile) // stride)) for side in (width, height))
    if tissue is None:
        row, column = np.divmod(np.arange(columns * rows, dtype=np.int64), columns)
    else:
        across = _parts(width, columns, tile, stride, scale / tissue.scale, tissue.mask.shape[1])
        down = _parts(height, rows, tile, stride, scale / tissue.scale, tissue.mask.shape[0])
        # How much tissue there is above and left of each pixel: that of a part is a difference of four.
        sums = np.zeros((tissue.mask.shape[0] + 1, tissue.mask.shape[1] + 1), np.int64)
        sums[1:, 1:] = tissue.mask.cumsum(axis=0).cumsum(axis=1)
        rows_of = sums[down[1]] - sums[down[0]]
        row, column = np.nonzero(rows_of[:, across[1]] - rows_of[:, across[0]])
    places = np.stack([column, row], axis=1).astype(np.int64)
    mpp = None if slide.mpp is None else float(own_mpp(slide.mpp) * scale)
    return Plan(scale, mpp, width, height, tile, stride, columns, rows, places)


def own_mpp(mpp: tuple[float, float]) -> float:
    """The side of a slide's pixels.

    Parameters
    ----------
    mpp : (float, float)
        Micrometres along x and y.

    Returns
    -------
    float

    Raises
    ------
    UnreadableError
        If they are not square.
    """
    if abs(mpp[0] / mpp[1] - 1) > NEAR:
        raise UnreadableError(
            f"its pixels are {mpp[0]:.4g} x {mpp[1]:.4g} micrometres, and models see square ones: save it with such"
        )
    return (mpp[0] + mpp[1]) / 2


def _parts(
    side: int, count: int, tile: int, stride: int, ratio: Fraction, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Along one axis, the first and the last pixel, exclusive, of a mask that each tile's own part touches."""
    inner = [(tile - stride) // 2 + n * stride for n in range(1, count)]
    borders = [0, *inner, side]
    first = np.array([math.floor(border * ratio) for border in borders[:-1]], np.int64)
    last = np.array([math.ceil(border * ratio) for border in borders[1:]], np.int64)
    return np.minimum(first, pixels - 1), np.minimum(last, pixels)
