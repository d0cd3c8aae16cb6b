"""The folder of results: maps in Zarr, a manifest in Parquet, and what it takes to go on where a run was killed.

A shard is so many consecutive images. Its overlays are written first, then the file of its maps, then its part of the
manifest: a shard is done when its part is there. Each file appears whole, by renaming. The last part done, the Zarr
array gets its metadata and the parts become ``manifest.parquet``: a job is done when that is there.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..results import durable
from .rows import COLUMNS, Columns

JOB = "job.json"
MAPS = "maps.zarr"
MANIFEST = "manifest.parquet"
OVERLAYS = "overlays"
PARTS = "parts"
LOCK = "job.lock"
FORMAT = 1

#: Maps that are compressed together: reading one reads these.
CHUNK = 16
#: Suffix to Pillow's name and options.
PICTURES: dict[str, tuple[str, dict[str, int]]] = {"jpg": ("JPEG", {"quality": 90}), "png": ("PNG", {})}


class ChangedError(ValueError):
    """A job can't go on: what is asked, or its images, are not those that it began with."""


class Store:
    """A job's folder. See :func:`opened`.

    Parameters
    ----------
    folder : Path
    shard_size : int
    pictures : {"jpg", "png"} or None
        Kind of the overlays.

    Attributes
    ----------
    digests : list of str
        Of the images of each shard that is done, as :meth:`write` got them.
    images, failed : int
        How many are done, and how many of these have an error.
    size : (int, int)
        H and W of the maps.
    complete : bool
    """

    def __init__(self, folder: Path, *, shard_size: int, pictures: str | None = None) -> None:
        self.folder = folder
        self.shard_size = shard_size
        self.pictures = pictures
        self.digests: list[str] = []
        self.images = self.failed = 0
        self.size = (0, 0)
        self.complete = (folder / MANIFEST).is_file()
        if self.complete:
            self._count(folder / MANIFEST)
            durable.remove(folder / PARTS)
            return
        while (part := self._part(len(self.digests))).is_file():
            self.digests.append(self._count(part))

    def write(
        self, maps: NDArray[Any], columns: Columns, *, overlays: Sequence[NDArray[np.uint8]] | None, digest: str = ""
    ) -> None:
        """Write the next shard.

        Parameters
        ----------
        maps : (n, H, W) float16 or float32
            n is `shard_size`, or less in the last shard.
        columns : dict
            Of n rows. `overlay` gets its names here.
        overlays : sequence of n (H, W, 3) arrays, or None
        digest : str
            Of the images.

        Raises
        ------
        ValueError
            If the last shard has been written: one of less than `shard_size` images ends the array. If `maps` are none
            or too many, or not as many as the rows. Nothing is written then.
        OSError
            If a file can't be written.
        """
        number = len(self.digests)
        self._check(number, maps, columns, overlays)
        if overlays is not None and self.pictures is not None:
            columns = columns | {"overlay": self._draw(number, columns, overlays)}
        array: dict[str, Any] = {}
        self._zarr(array, maps.shape, maps.dtype)[...] = maps
        # Of a shard without a single map there is no file: the array reads as NaN there.
        if "c/0/0/0" in array:
            place = durable.folder(self.folder / MAPS / "c" / str(number) / "0")
            durable.write(place / "0", array["c/0/0/0"].to_bytes())
        failed = sum(error is not None for error in columns["error"])
        durable.folder(self.folder / PARTS)
        self.size = (maps.shape[1], maps.shape[2])
        facts = {"failed": failed, "digest": digest, "height": self.size[0], "width": self.size[1]}
        durable.write(self._part(number), _parquet(_table(columns), facts))
        self.digests.append(digest)
        self.images += len(maps)
        self.failed += failed

    def finish(self, dtype: str) -> None:
        """All shards are written: make the array and the manifest whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        array: dict[str, Any] = {}
        self._zarr(array, (self.images, *self.size), np.dtype(dtype))
        durable.write(durable.folder(self.folder / MAPS) / "zarr.json", array["zarr.json"].to_bytes())
        rows = pa.concat_tables(
            # Their schemas differ in the metadata.
            pq.read_table(self._part(number)).replace_schema_metadata(None)
            for number in range(len(self.digests))
        )
        facts = {"failed": self.failed, "height": self.size[0], "width": self.size[1]}
        durable.write(self.folder / MANIFEST, _parquet(rows, facts))
        durable.remove(self.folder / PARTS)
        self.complete = True

    def _check(
        self, number: int, maps: NDArray[Any], columns: Columns, overlays: Sequence[NDArray[np.uint8]] | None
    ) -> None:
        """Refuse what would put maps beside other images' rows."""
        count = len(maps)
        if self.images != number * self.shard_size:
            raise ValueError(
                f"maps: expected no more: after {number} shards of {self.shard_size} images there are {self.images}, "
                f"so the last one has been written; got {count}"
            )
        if not 1 <= count <= self.shard_size:
            raise ValueError(f"maps: expected 1 to {self.shard_size}, the images of a shard; got {count}")
        lengths = {name: len(column) for name, column in columns.items()}
        lengths |= {} if overlays is None else {"overlays": len(overlays)}
        for name, length in lengths.items():
            if length != count:
                raise ValueError(f"{name}: expected {count}, one for each of the maps; got {length}")

    def _part(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:08d}.parquet"

    def _count(self, path: Path) -> str:
        import pyarrow.parquet as pq

        found = pq.read_metadata(path)
        facts: dict[str, str] = {key.decode(): value.decode() for key, value in found.metadata.items()}
        self.images += found.num_rows
        self.failed += int(facts["failed"])
        self.size = (int(facts["height"]), int(facts["width"]))
        return facts.get("digest", "")

    def _draw(self, number: int, columns: Columns, overlays: Sequence[NDArray[np.uint8]]) -> list[str | None]:
        assert self.pictures is not None
        kind, options = PICTURES[self.pictures]
        names: list[str | None] = []
        for index, error, pixels in zip(columns["index"], columns["error"], overlays):
            if error is not None:
                names.append(None)
                continue
            name = f"{OVERLAYS}/{number:08d}/{index:010d}.{self.pictures}"
            names.append(name)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, format=kind, **options)
            path = self.folder / name
            durable.folder(path.parent)
            durable.write(path, picture.getbuffer())
        return names

    def _zarr(self, store: dict[str, Any], shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        """An array in memory whose one file is a shard's, or whose metadata is the whole array's."""
        import zarr
        from zarr.codecs import BloscCodec

        return zarr.create_array(
            store=store,
            shape=tuple(shape),
            dtype=dtype,
            shards=(self.shard_size, *shape[1:]),
            chunks=(math.gcd(self.shard_size, CHUNK), *shape[1:]),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
            fill_value=float("nan"),
            dimension_names=("image", "y", "x"),
        )


@contextmanager
def opened(
    folder: Path, asked: Mapping[str, Any], *, source: str, shard_size: int, pictures: str | None, restart: bool
) -> Iterator[Store]:
    """The folder of a job, new or to go on with; no other process writes to it meanwhile.

    Parameters
    ----------
    folder : Path
    asked : mapping
        All that the results depend on, as JSON takes it.
    source : str
        Where the images come from, for people.
    shard_size, pictures
        See :class:`Store`.
    restart : bool
        Drop what a job left there, whatever it was.

    Raises
    ------
    ChangedError
        If the folder is a job's of which something else was asked; the message says what.
    FileExistsError
        If results of no job are there, or another process is writing to it.
    OSError
        If it can't be written.
    """
    durable.folder(folder)
    with _locked(folder / LOCK):
        job = folder / JOB
        ours = [MANIFEST, PARTS, MAPS, OVERLAYS, JOB]
        found = _job(job)
        if found is not None and restart:
            for name in ours:
                durable.remove(folder / name)
        elif found is not None:
            _check_same(found, asked, folder)
        if found is None or restart:
            there = [name for name in ours if (folder / name).exists()]
            if there:
                raise FileExistsError(f"out: {folder} has {', '.join(there)} of no job; choose another folder")
            text = {"format": FORMAT, "source": source, "asked": asked}
            durable.write(job, json.dumps(text, indent=2, sort_keys=True).encode() + b"\n")
        yield Store(folder, shard_size=shard_size, pictures=pictures)


def failures(folder: Path, limit: int) -> list[tuple[str, str]]:
    """Sources and errors of the first images that failed, of a job that is complete."""
    import pyarrow.parquet as pq

    found: list[tuple[str, str]] = []
    with pq.ParquetFile(folder / MANIFEST) as manifest:
        for rows in manifest.iter_batches(columns=["source", "error"]):
            found += [(row["source"], row["error"]) for row in rows.to_pylist() if row["error"] is not None]
            if len(found) >= limit:
                break
    return found[:limit]


def _job(path: Path) -> dict[str, Any] | None:
    """What a job said of itself; None where there is no job, whoever's file is there."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"format", "source", "asked"} <= found.keys() else None


def _check_same(found: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    if found.get("format") != FORMAT:
        raise ChangedError(f"out: {folder} is a job's of another release")
    before = found["asked"]
    now = json.loads(json.dumps(asked))
    different = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if not different:
        return
    said = []
    for key in different:
        if key == "fingerprint":
            said.append("the images' names, sizes, times or targets have changed")
        elif key == "model":
            said.append("the model or its weights have changed")
        elif key == "class_names":
            said.append("the names of the classes have changed")
        else:
            said.append(f"{key} was {before.get(key)}, is {now.get(key)}")
    raise ChangedError(
        f"out: {folder} has results of another job, begun with {found['source']}: {'; '.join(said)}. Choose another "
        "folder, or drop them with restart (--restart)"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(path, "ab") as file:
        try:
            # A record lock, not flock: the kernel takes it back with this process, whatever children outlive it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise FileExistsError(f"out: another process is writing to {path.parent}") from None
        yield


def _table(columns: Columns) -> Any:
    import pyarrow as pa

    types = {name: pa.type_for_alias(kind) for name, kind in COLUMNS.items()}
    return pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()})


def _parquet(table: Any, facts: Mapping[str, object]) -> memoryview:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    metadata = {key: str(value) for key, value in facts.items()}
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return memoryview(sink.getvalue())
