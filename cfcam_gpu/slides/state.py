"""What is kept of a slide while its tiles are explained, so that a killed job goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
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
from .stitching import Stitching
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
        self._files = [open(self._raster(number), "r+b", buffering=0) for number in range(len(self.classes))]  # noqa: SIM115  # until close

    def close(self) -> None:
        """Close the files of the maps."""
        for file in self._files:
            file.close()

    @property
    def rasters(self) -> list[Raster]:
        """The maps, of each class one."""
        stitching = self.stitching
        return [Raster(self._raster(number), stitching.height, stitching.width) for number in range(len(self.classes))]

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
        for first, values in self.stitching.finished(self.done):
            for file, of_class in zip(self._files, values):
                file.seek(first * self.stitching.width * 4)
                file.write(np.ascontiguousarray(of_class).data)
        for file in self._files:
            os.fsync(file.fileno())
        table.keep(self.folder / f"tiles-{begun:010d}.parquet", rows)
        open_rows = {"evidence": self.stitching.evidence, "weight": self.stitching.weight}
        # Arrays without elements are none of safetensors' kinds.
        kept = {name: values for name, values in open_rows.items() if values.size}
        said = {"done": self.done, "failed": self.failed, "upper": self.stitching.upper}
        metadata = {key: str(value) for key, value in said.items()}
        durable.write(self.folder / _STATE, safetensors.numpy.save(kept, metadata))

    def _raster(self, number: int) -> Path:
        return self.folder / f"map-{self.classes[number]}.f32"

    def _read(self) -> None:
        path = self.folder / _STATE
        if not path.exists():
            for number in range(len(self.classes)):
                durable.write(self._raster(number), b"")
            return
        try:
            with safetensors.safe_open(path, "numpy") as file:
                said: dict[str, str] = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            self.done, self.failed = int(said["done"]), int(said["failed"])
            self.stitching = Stitching(self.plan, len(self.classes), int(said["upper"]))
            if arrays:
                self.stitching.evidence, self.stitching.weight = arrays["evidence"], arrays["weight"]
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            raise damaged(path, error) from None
