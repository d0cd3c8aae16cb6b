"""The tiles of a slide that speak most for a class, and their pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..core.maps import interpolate
from ..results.overlays import overlay
from .pyramid import Raster
from .stitching import CELL
from .tiles import Plan

#: How many of each class.
COUNT = 10


@dataclass(frozen=True, eq=False)
class Strong:
    """One of the strongest tiles.

    Parameters
    ----------
    tile : int
        Its index.
    probability, evidence : float
        As in the table.
    pixels : (h, w, 3) uint8 array
        RGB.
    overlay : (h, w, 3) uint8 array
        The map over them, over the slide's maximum.
    """

    tile: int
    probability: float
    evidence: float
    pixels: NDArray[np.uint8]
    overlay: NDArray[np.uint8]

    def picture(self) -> bytes:
        """The tile and its overlay beside each other, as PNG."""
        file = io.BytesIO()
        Image.fromarray(np.concatenate([self.pixels, self.overlay], axis=1)).save(file, format="PNG")
        return file.getvalue()


def choose(plan: Plan, evidence: NDArray[np.float32]) -> list[int]:
    """Choose the tiles of the most evidence, the strongest first, none of which overlaps another one.

    Parameters
    ----------
    plan : Plan
    evidence : (N,) float32 array
        Of each tile; NaN of those that have none.

    Returns
    -------
    list of int
        :data:`COUNT` tiles, or fewer where there are no more with any evidence.
    """
    chosen: list[int] = []
    # The first of those that are alike, whatever sorts.
    for index in np.argsort(-np.nan_to_num(evidence), kind="stable").tolist():
        if len(chosen) == COUNT or not evidence[index] > 0:
            break
        apart = np.abs(plan.corners[chosen] - plan.corners[index]).max(axis=1, initial=0)
        if (apart >= plan.tile).all():
            chosen.append(index)
    return chosen


def drawn(plan: Plan, index: int, pixels: NDArray[np.uint8], raster: Raster, maximum: float) -> NDArray[np.uint8]:
    """The slide's map over a tile, (h, w, 3) uint8; the map over `maximum`."""
    x, y = plan.corners[index].tolist()
    # With the cells beside the tile, between which and its own values lie.
    left, top, cells = max(0, x // CELL - 1), max(0, y // CELL - 1), math.ceil(plan.tile / CELL) + 3
    part = raster.read(top, cells)[:, left : left + cells]
    values = torch.zeros(1, 1, cells, cells)
    values[0, 0, : part.shape[0], : part.shape[1]] = torch.from_numpy(np.nan_to_num(part))
    fine = interpolate(values, (cells * CELL, cells * CELL))[0, :, y - top * CELL :, x - left * CELL :]
    maps = (fine[:, : plan.tile, : plan.tile] / maximum).clamp(0, 1)
    image = torch.from_numpy(pixels).movedim(-1, 0)[None]
    found: NDArray[np.uint8] = overlay(maps, image)[0].numpy()
    return found


def described(plan: Plan, found: Sequence[Strong]) -> list[dict[str, Any]]:
    """What JSON says of them: where on level 0, and how strong."""
    scale = float(plan.scale)
    return [
        {
            "tile": one.tile,
            "x": float(plan.corners[one.tile, 0]) * scale,
            "y": float(plan.corners[one.tile, 1]) * scale,
            "size": plan.tile * scale,
            "probability": one.probability,
            "evidence": one.evidence,
        }
        for one in found
    ]
