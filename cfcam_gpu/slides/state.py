"""What is kept of a slide while its tiles are explained, so that a killed job goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ..pipelines import resuming
from ..pipelines.resuming import Example, Job
from ..pipelines.store import PARTS, damaged
from ..results import durable
from . import table
from .pyramid import Raster
from .stitching import CHANNELS, Stitching
from .tiles import Plan

SUMMARY = "summary.json"
PAGE = "page.html"
STRONGEST = "strongest"
_STATE = "state.safetensors"


def map_name(index: int, kind: str) -> str:
    """The file of a class's map, ``"map-7.ome.tif"``; `kind` is ``"ome-tiff"`` or ``"ome-zarr"``."""
    return f"map-{index}.{'ome.tif' if kind == 'ome-tiff' else 'ome.zarr'}"


def begin(folder: Path, source: str, asked: Mapping[str, Any], example: Example, *, restart: bool) -> bool:
    """Look at a folder before anything is written to it, and note what is asked.

    Parameters
    ----------
    folder : Path
        Locked.
    source : str
        The slide, for people.
    asked : mapping
        All that the results depend on.
    example : Example
        What becomes of a known image: that changes with the model's or the method's code.
    restart : bool
        Drop what a job left there.

    Returns
    -------
    bool
        Whether the job is done already.

    Raises
    ------
    ChangedError
        If results of something else are there.
    FileExistsError
        If results of no job are there.
    OSError
    """
    ours = [SUMMARY, PAGE, STRONGEST, table.TABLE, *(path.name for path in sorted(folder.glob("map-*.ome.*")))]
    there = [name for name in ours if (folder / name).exists()]
    if there and not asked_before(folder):
        raise FileExistsError(f"out: {folder} has {', '.join(there)} of no job; choose another folder")
    if restart:  # the job itself is dropped last
        for name in there:
            durable.remove(folder / name)
    before, now = resuming.found(folder, restart=restart), Job.of(source, asked, "")
    if before is None:
        now.write(folder)
    elif said := resuming.differences(before.asked, now.asked):
        raise resuming.refuse(folder, before, said)
    if (other := resuming.same_example(folder, example)) is not None:
        raise resuming.refuse(folder, before or now, [other])
    return before is not None and (folder / SUMMARY).is_file()


def asked_before(folder: Path) -> Mapping[str, Any]:
    """What was asked of the job in a folder; nothing where there is none, or none that can be read."""
    try:
        found = json.loads((folder / resuming.JOB).read_bytes())["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


class State:
    """What is done of a slide: the finished rows of its maps, the open ones, and the rows of the table.

    The maps' rows are written first, then the part of the table, then the open rows: what these tell of is done.

    Parameters
    ----------
    folder : Path
    plan : Plan
    classes : sequence of int

    Attributes
    ----------
    done : int
        Tiles; the next is this one.
    failed : int
        Tiles without a map among them.

    Raises
    ------
    ChangedError
        If what was kept can't be read.
    OSError
    """

    def __init__(self, folder: Path, plan: Plan, classes: Sequence[int]) -> None:
        self.folder = durable.folder(folder / PARTS)
        self.plan = plan
        self.classes = list(classes)
        self.done = self.failed = 0
        self.stitching = Stitching(plan, len(self.classes))
        self._read()

    @property
    def rasters(self) -> list[dict[str, Raster]]:
        """The maps, of each class its channels by name."""
        height, width = self.stitching.height, self.stitching.width
        return [
            {channel: Raster(path, height, width) for channel, path in zip(CHANNELS, of_class)}
            for of_class in self._paths
        ]

    @property
    def tables(self) -> list[Path]:
        """The parts of the table, in order."""
        names = sorted(self.folder.glob("tiles-*.parquet"))
        return [path for path in names if int(path.stem.partition("-")[2]) < self.done]

    def commit(self, begun: int, rows: Any) -> None:
        """Keep what is done: all tiles up to `done` are in.

        Parameters
        ----------
        begun : int
            The first tile behind the last commit.
        rows : pyarrow.Table
            From that tile on.

        Raises
        ------
        OSError
            If it can't be written.
        """
        finished = list(self.stitching.finished(self.done))
        for number, path in enumerate(chain(*self._paths)):
            target, channel = divmod(number, len(CHANNELS))
            parts = (
                (first * self.stitching.width * 4, np.ascontiguousarray(values[target, channel]).data.cast("B"))
                for first, values in finished
            )
            durable.update(path, parts)
        table.keep(self.folder / f"tiles-{begun:010d}.parquet", rows)
        open_rows = {"sums": self.stitching.sums, "weight": self.stitching.weight}
        # Arrays without elements are none of safetensors' kinds.
        kept = {name: values for name, values in open_rows.items() if values.size}
        said = {"done": self.done, "failed": self.failed, "upper": self.stitching.upper}
        metadata = {key: str(value) for key, value in said.items()}
        durable.write(self.folder / _STATE, safetensors.numpy.save(kept, metadata))

    @property
    def _paths(self) -> list[list[Path]]:
        """The maps' files, of each class one for each channel."""
        return [[self.folder / f"{channel}-{index}.f32" for channel in CHANNELS] for index in self.classes]

    def _read(self) -> None:
        path = self.folder / _STATE
        if not path.exists():
            for raster in chain(*self._paths):
                durable.write(raster, b"")
            return
        try:
            with safetensors.safe_open(path, "numpy") as file:
                said: dict[str, str] = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            self.done, self.failed = int(said["done"]), int(said["failed"])
            self.stitching = Stitching(self.plan, len(self.classes), int(said["upper"]))
            if arrays:
                self.stitching.sums, self.stitching.weight = arrays["sums"], arrays["weight"]
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            raise damaged(path, error) from None
