"""The maps of a job that is done, as Parametric Maps beside it: of each image of DICOM one.

Files appear whole, and those that are there are left as they are: a run that was stopped goes on with the others. Dates
and UIDs are made of when the first of them was begun, which is noted, so that it does not show where a run was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..image_files.formats import UnreadableError
from ..results import durable, saving
from ..scans.dicom import placing, results
from ..scans.dicom.about import About
from ..scans.dicom.asked import Asked
from ..sources.photographs import Photographs
from .lock import held
from .manifest import MANIFEST
from .store import DICOM, MAPS, ChangedError

_BEGAN = ".began"
_COLUMNS = ("source", "target", "class", "probability", "error")


class Written(NamedTuple):
    """How many Parametric Maps there are now, and of which images there should be one, and why there is none."""

    maps: int
    failed: list[tuple[str, str]]


def check(folder: Path, *, mark: bool) -> None:
    """Refuse to go on with maps that were written otherwise.

    Parameters
    ----------
    folder : Path
        Of the job.
    mark : bool
        Whether they are to say that they are not for diagnosis.

    Raises
    ------
    ChangedError
        If those that are there don't, or do.
    OSError
        If it can't be looked at.
    """
    path = folder / DICOM / _BEGAN
    if not path.is_file():
        return
    before = bool(json.loads(path.read_text())["mark"])
    if before != mark:
        said = {True: "say that they are not for diagnosis", False: "don't say that they are not for diagnosis"}
        raise ChangedError(
            f"mark: the maps in {folder / DICOM} {said[before]}, and those that are asked for {said[mark]}; delete "
            f"this folder, or give {'--mark' if before else '--no-mark'}"
        )


def write(
    folder: Path, photographs: Photographs, *, model: str, method: str, layers: tuple[str, ...], mark: bool
) -> Written:
    """Write what is not there yet.

    Parameters
    ----------
    folder : Path
        Of the job.
    photographs : Photographs
        Its images, in the order of the job.
    model, method, layers
        As for :class:`cfcam_gpu.scans.dicom.about.About`.
    mark : bool
        Whether they say that they are not for diagnosis.

    Raises
    ------
    ChangedError
        See :func:`check`.
    FileExistsError
        If another run is writing to the folder.
    OSError
        If a file can't be written. Those before it are there.
    """
    failed = []
    with held(folder):
        check(folder, mark=mark)
        out = durable.folder(folder / DICOM)
        when = _began(out, mark=mark)
        rows = list(_rows(folder))
        stems = saving.file_names(row["source"] for row in rows)
        array, reader = _maps(folder), photographs.reader()
        try:
            for index, (row, stem, item) in enumerate(zip(rows, stems, photographs.items)):
                if row["error"] is not None or (out / f"{stem}{results.SUFFIXES[results.MAP]}").exists():
                    continue
                try:
                    source = reader.source(item)
                    if source is None:
                        continue
                    about = About.of(row | {"method": method, "layers": layers}, model)
                    grid = photographs.preparation.grid(placing.pixel_grid(source))
                    values = np.asarray(array[index], np.float32)
                    results.write(
                        values, grid, source, about, out, stem, asked=Asked(mark=mark), number=index + 1, when=when
                    )
                except (UnreadableError, ValueError) as error:
                    failed.append((row["source"], str(error)))
        finally:
            reader.close()
    return Written(sum(1 for _ in out.glob(f"*{results.SUFFIXES[results.MAP]}")), failed)


def _began(out: Path, *, mark: bool) -> datetime:
    path = out / _BEGAN
    if not path.exists():
        durable.write(path, json.dumps({"when": datetime.now().isoformat(), "mark": mark}).encode())
    return datetime.fromisoformat(json.loads(path.read_text())["when"])


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / MANIFEST) as manifest:
        for rows in manifest.iter_batches(columns=list(_COLUMNS)):
            yield from rows.to_pylist()


def _maps(folder: Path) -> Any:
    import zarr

    return zarr.open_array(folder / MAPS, mode="r")
