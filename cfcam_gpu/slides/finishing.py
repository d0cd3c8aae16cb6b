"""What is made of a slide when all of its tiles are explained: pyramids, the table, pictures, the page, a summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..pipelines.store import PARTS
from ..results import durable
from . import page, pyramid, state, strongest, table
from .info import SlideInfo
from .pyramid import Raster
from .state import State
from .stitching import CELL
from .strongest import Strong
from .tiles import Plan
from .workers import TileReaders


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the results of a slide say of it.

    Parameters
    ----------
    name : str
        Of its file.
    info : SlideInfo
        With its mpp.
    plan : Plan
    classes : sequence of int
    class_names : sequence of str
        Theirs.
    all_names : sequence of str
        Of every class of the model.
    kind : {"ome-tiff", "ome-zarr"}
    trained : bool
    asked : mapping
    """

    name: str
    info: SlideInfo
    plan: Plan
    classes: Sequence[int]
    class_names: Sequence[str]
    all_names: Sequence[str]
    kind: str
    trained: bool
    asked: dict[str, Any]

    @property
    def mpp(self) -> tuple[float, float]:
        """Micrometres along x and y in a cell of the map."""
        assert self.info.mpp is not None
        cell = float(self.plan.scale) * CELL
        return self.info.mpp[0] * cell, self.info.mpp[1] * cell


def finish(folder: Path, named: Named, kept: State | None, readers: TileReaders) -> int:
    """Write what comes of a slide.

    Parameters
    ----------
    folder : Path
    named : Named
    kept : State or None
        All of whose tiles are done; None where all was written before.
    readers : TileReaders

    Returns
    -------
    int
        How many tiles have no map.

    Raises
    ------
    OSError
        If something can't be written.
    SlideError
        If the slide can't be read.
    """
    if kept is None:
        durable.remove(folder / PARTS)
        failed: int = json.loads((folder / state.SUMMARY).read_bytes())["failed"]
        return failed
    rows = table.joined(kept.tables)
    table.keep(folder / table.TABLE, rows)
    write = pyramid.write_tiff if named.kind == "ome-tiff" else pyramid.write_zarr
    assert named.info.mpp is not None
    origin = tuple((cell - pixel) / 2 for cell, pixel in zip(named.mpp, named.info.mpp))
    found: list[dict[str, Any]] = []
    shown: list[page.Shown] = []
    durable.remove(folder / state.STRONGEST)
    for index, label, rasters in zip(named.classes, named.class_names, kept.rasters):
        channels = {channel: pyramid.levels(raster) for channel, raster in rasters.items()}
        file = state.map_name(index, named.kind)
        write(folder / file, channels, mpp=named.mpp, origin=(origin[0], origin[1]), name=named.name, label=label)
        maximum = _maximum(rasters["evidence"])
        strong = _strongest(named, index, rows, rasters["evidence"], maximum, readers)
        pictures = [_kept(folder, index, number, one) for number, one in enumerate(strong)]
        described = [
            {"picture": picture, **said} for picture, said in zip(pictures, strongest.described(named.plan, strong))
        ]
        probabilities = rows[f"probability_{index}"].to_numpy(zero_copy_only=False)
        found.append(
            {
                "class": index,
                "name": label,
                "map": file,
                "maximum": maximum,
                "mean_probability": _mean(probabilities),
                "predicted": int(np.count_nonzero(rows["predicted"].to_numpy(zero_copy_only=False) == index)),
                "strongest": described,
            }
        )
        # A probability is over 1, so that the page shows how sure the model is; evidence may be small all over.
        tops = {"evidence": maximum, "probability": 1.0}
        maps = [page.Map(channel, levels, tops[channel]) for channel, levels in channels.items()]
        shown.append(page.Shown(label=label, maps=maps, strong=strong, described=described))
    info, plan = named.info, named.plan
    text = page.render(named.name, info, float(plan.scale) * CELL, named.trained, shown, readers)
    durable.write(folder / state.PAGE, text.encode())
    summary = {
        "slide": {
            "name": named.name,
            "kind": info.kind,
            "width": info.width,
            "height": info.height,
            "mpp": info.mpp,
            "magnification": info.magnification,
            "reader": info.reader,
            "reason": info.reason,
        },
        "tiles": len(plan),
        "failed": kept.failed,
        "pixels_of_level_0_in_a_pixel_of_a_tile": float(plan.scale),
        "mpp_of_tiles": [side / CELL for side in named.mpp],
        "mpp_of_maps": list(named.mpp),
        "tile": plan.tile,
        "stride": plan.stride,
        "trained": named.trained,
        "classes": found,
        "asked": named.asked,
        "cfcam_gpu": __version__,
    }
    durable.write(folder / state.SUMMARY, json.dumps(summary, indent=2).encode() + b"\n")
    durable.remove(folder / PARTS)
    return kept.failed


def _kept(folder: Path, index: int, number: int, one: Strong) -> str:
    """Write a picture, and return its name."""
    name = f"{state.STRONGEST}/{index}-{number + 1:02d}.png"
    durable.folder((folder / name).parent)
    durable.write(folder / name, one.picture())
    return name


def _strongest(
    named: Named, index: int, rows: Any, raster: Raster, maximum: float, readers: TileReaders
) -> list[Strong]:
    plan = named.plan
    probability, evidence = (
        rows[f"{name}_{index}"].to_numpy(zero_copy_only=False) for name in ("probability", "evidence")
    )
    chosen = strongest.choose(plan, evidence)
    pixels = readers.tiles(plan.region(tile) for tile in chosen)
    return [
        Strong(
            tile,
            float(probability[tile]),
            float(evidence[tile]),
            image,
            strongest.drawn(plan, tile, image, raster, maximum),
        )
        for tile, image in zip(chosen, pixels)
    ]


def _maximum(raster: Raster) -> float:
    """The map's largest value; 0 where it has none."""
    found = 0.0
    for first in range(0, raster.height, pyramid.PIECE):
        found = max(found, float(np.nan_to_num(raster.read(first, pyramid.PIECE)).max(initial=0.0)))
    return found


def _mean(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else None
