"""Where the tissue is on a slide."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..scans.errors import UnreadableError
from .region import Region
from .workers import TileReaders

#: Pixels along the longer side of the thumbnail, at most.
LONGEST = 2048
#: Side of the thumbnail's parts, which are read side by side.
_PART = 128
#: 255ths from white beyond which nothing is ground.
_DARKEST = 64
#: How little ground varies: the deviation among 5 x 5 pixels, and from one end of the slide to the other.
_FLAT, _SPREAD = 4.0, 8.0
#: By how much tissue differs from ground at least, and, where no ground is to be seen, from white.
_APART = 10.0
#: All of whose channels are below: where nothing was scanned, in files that have black there.
_BLACK = 24
#: Pixels of the thumbnail in the smallest piece of tissue, and the largest hole that counts as tissue.
_SPECK, _HOLE = 32, 64
#: A dark ground, as of fluorescence: whose channels are all below, but not the nothing of what was not scanned.
_DIM, _NOTHING = 48, 2
#: What no stain leaves of its darkest channel, in the middle of what is lit.
_PURE = 16


@dataclass(frozen=True, eq=False)
class Tissue:
    """The tissue of a slide, found on a thumbnail.

    Parameters
    ----------
    mask : (h, w) bool array
    thumbnail : (h, w, 3) uint8 array
        RGB, of the whole slide.
    scale : Fraction
        Pixels of level 0 along the side of one of the thumbnail's.
    """

    mask: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]
    scale: Fraction


def find(readers: TileReaders) -> Tissue:
    """Find the tissue of the slide that `readers` read.

    Parameters
    ----------
    readers : TileReaders

    Returns
    -------
    Tissue

    Raises
    ------
    UnreadableError
        If the slide's ground is dark; a SlideError if it can't be read through.
    """
    slide = readers.slide
    # A power of two, whatever levels there are, so that the result hardly depends on them.
    step = 1
    while step * LONGEST < max(slide.width, slide.height):
        step *= 2
    scale = Fraction(step)
    width, height = -(-slide.width // step), -(-slide.height // step)
    regions = [
        Region(x, y, min(_PART, width - x), min(_PART, height - y), scale)
        for y in range(0, height, _PART)
        for x in range(0, width, _PART)
    ]
    thumbnail = np.empty((height, width, 3), np.uint8)
    for region, pixels in zip(regions, readers.tiles(regions), strict=True):
        thumbnail[region.y : region.y + region.height, region.x : region.x + region.width] = pixels
    if is_dark(thumbnail):
        raise UnreadableError(
            "a slide on a dark ground, as of fluorescence or a dark field: its tissue can't be told, and slides in "
            "bright field alone are explained"
        )
    return Tissue(mask(thumbnail), thumbnail, scale)


def is_dark(thumbnail: NDArray[np.uint8]) -> bool:
    """Whether a slide's ground is dark, as of fluorescence.

    Most of it is nearly black then. Where that is black through and through, as in what was not scanned, the rest
    tells: a stain takes light away, and leaves some of each colour, while fluorescence has one colour and nothing else.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8 array
        RGB.

    Returns
    -------
    bool
    """
    brightest, darkest = thumbnail.max(axis=-1), thumbnail.min(axis=-1)
    there = brightest > _NOTHING
    if not there.any():
        return False
    lit = there & (brightest >= _DIM)
    if 2 * lit.sum() < there.sum():
        return True
    return bool(2 * there.sum() < there.size and np.median(darkest[lit]) < _PURE)


def mask(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell tissue from ground, in a bright field.

    Ground is white, or nearly so, and even. Tissue is dark, or coloured, so that one of its channels is: what is
    further from white than the brightest ground, be it as pale as unstained stroma. Specks go, and small holes are
    filled. What was drawn on the glass is tissue, too.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8 array
        RGB.

    Returns
    -------
    (h, w) bool array
    """
    from scipy import ndimage

    stained = 255 - thumbnail.min(axis=-1).astype(np.float32)
    scanned = thumbnail.max(axis=-1) >= _BLACK
    smooth = ndimage.uniform_filter(stained, 3)
    mean, square = (ndimage.uniform_filter(values.astype(np.float64), 5) for values in (stained, stained**2))
    even = (square - mean**2 < _FLAT**2) & (mean < _DARKEST)
    found: NDArray[np.bool_] = (smooth > _ground(mean[even]) + _APART) & scanned
    found = _without(found, _SPECK)
    return ~_without(~found, _HOLE, keep=~scanned)


def _ground(even: NDArray[np.float64]) -> float:
    """How far from white the ground is, of what is even and bright; 0 if there is nothing of it."""
    if not even.size:
        return 0.0
    brightest = np.percentile(even, 5)
    return float(np.median(even[even <= brightest + _SPREAD]))


def _without(mask: NDArray[np.bool_], least: int, keep: Any = False) -> NDArray[np.bool_]:
    """The mask without its pieces of fewer than `least` pixels, but for those that `keep` touches."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large = sizes >= least
    large[np.unique(labels[np.broadcast_to(keep, labels.shape)])] = True
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept
