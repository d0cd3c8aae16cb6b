"""The folder of results: maps in Zarr, a manifest in Parquet, and what it takes to go on where a run was killed.

A shard is so many consecutive images. Its overlays are written first, then the file of its maps, then its part of the
manifest: a shard is done when its part is there, and what the part tells of is. Each file appears whole, by renaming.
Shards may be written in any order. When all are done, the parts become ``manifest.parquet``: a job is done when that is
there.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..results import durable
from .manifest import MANIFEST
from .rows import Columns, table

MAPS = "maps.zarr"
OVERLAYS = "overlays"
PARTS = "parts"
#: What :mod:`cfcam_gpu.pipelines.in_dicom` writes of a job that is done.
DICOM = "dicom"

#: Maps that are compressed together: reading one reads these.
CHUNK = 16
#: Suffix to Pillow's name and options.
PICTURES: dict[str, tuple[str, dict[str, int]]] = {"jpg": ("JPEG", {"quality": 90}), "png": ("PNG", {})}

#: A part's metadata, as :class:`Shard` has them.
_FACTS = {"images": int, "failed": int, "digest": str, "size": int, "drawn": int}

_log = logging.getLogger(__name__)


class ChangedError(ValueError):
    """A job can't go on: what is asked, or its images, are not those that it began with."""


def damaged(path: Path, error: Exception) -> ChangedError:
    """The error that says that a file of a job's can't be read, and what to do."""
    return ChangedError(
        f"out: {path} is damaged ({error}): put a whole copy in its place, or drop the results with restart (--restart)"
    )


class Shard(NamedTuple):
    """What is known of a shard that is done.

    Parameters
    ----------
    images, failed : int
        How many it has, and how many of these have an error.
    digest : str
        Of its images.
    size : int
        Bytes of the file of its maps; 0 where it has none, since every image failed.
    drawn : int
        Bytes of its overlays.
    """

    images: int
    failed: int
    digest: str
    size: int
    drawn: int


def combined(digests: Iterable[str]) -> str:
    """The digest of a shard, of those of its batches."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


class Store:
    """The results of a job, in its folder.

    Parameters
    ----------
    folder : Path
    shape : sequence of int
        H and W of the maps, of volumes D, H and W, of signals their length.
    dtype : {"float16", "float32"}
        Of the maps.
    shard_size : int
    pictures : {"jpg", "png"} or None
        Kind of the overlays.
    total : int, optional
        Images of the job, where that is known.
    grow : bool
        Whether images may come behind those of a job that is done. Otherwise a shard that is not full is the last one.

    Attributes
    ----------
    done : dict
        Shards by number.
    lost : list of int
        Numbers of shards that were done, and of which a file is missing or cut off now. They are done again.
    complete : bool
        Whether nothing is left to do.

    Raises
    ------
    ChangedError
        If the manifest can't be read.
    OSError
    """

    def __init__(
        self,
        folder: Path,
        *,
        shape: Sequence[int],
        dtype: str,
        shard_size: int,
        pictures: str | None = None,
        total: int | None = None,
        grow: bool = False,
    ) -> None:
        self.folder = folder
        self.shape = tuple(shape)
        self.dtype = dtype
        self.shard_size = shard_size
        self.pictures = pictures
        self.total = total
        self._closed = (folder / MANIFEST).is_file()
        there = self._in_manifest() if self._closed else self._in_parts()
        last = max(there, default=0)
        #: The last shard and what is known of it, where it was done, and is done again as more images come.
        self.cut: tuple[int, Shard] | None = (
            (last, there[last]) if there and not self._ends(last, there[last], grow) else None
        )
        there = {number: shard for number, shard in there.items() if self._ends(number, shard, grow)}
        self.lost = [number for number, shard in there.items() if not self._is_whole(number, shard)]
        self.done = {number: shard for number, shard in there.items() if number not in self.lost}
        more = grow if total is None else self.images < total
        self.complete = self._closed and not self.lost and not more

    def begin(self) -> None:
        """Make ready to write what isn't done.

        Raises
        ------
        OSError
            If a file can't be written.
        """
        if self.lost:
            _log.warning("%d shards in %s have lost files: they are done again", len(self.lost), self.folder)
        if self.complete:
            durable.remove(self.folder / PARTS)
        elif self._closed:
            self._reopen()
        self.describe()

    @property
    def images(self) -> int:
        """How many are done."""
        return sum(shard.images for shard in self.done.values())

    @property
    def failed(self) -> int:
        """How many of them have an error."""
        return sum(shard.failed for shard in self.done.values())

    def starts(self, batch_size: int) -> list[int]:
        """Of a job whose images are counted: where the batches that aren't done begin."""
        assert self.total is not None
        numbers = (k for k in range(math.ceil(self.total / self.shard_size)) if k not in self.done)
        return [start for k in numbers for start in self.within(k, batch_size)]

    def within(self, number: int, batch_size: int) -> range:
        """Of such a job: where the batches of a shard begin."""
        assert self.total is not None
        first = number * self.shard_size
        return range(first, min(first + self.shard_size, self.total), batch_size)

    def describe(self) -> None:
        """Have the array readable: write its metadata, where they are not there."""
        array: dict[str, Any] = {}
        images = self.total or max((k * self.shard_size + shard.images for k, shard in self.done.items()), default=0)
        if not images:
            return
        self._zarr(array, images)
        path, text = self.folder / MAPS / "zarr.json", array["zarr.json"].to_bytes()
        if not path.is_file() or path.read_bytes() != text:
            durable.write(durable.folder(path.parent) / path.name, text)

    def write(
        self,
        number: int,
        maps: NDArray[Any],
        columns: Columns,
        *,
        overlays: Sequence[NDArray[np.uint8]] | None,
        digest: str = "",
    ) -> None:
        """Write a shard.

        Parameters
        ----------
        number : int
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
            If the shard is done, or lies behind one that is not full. If `maps` are none, too many, of another shape
            than the others, or not as many as the rows. Nothing is written then.
        OSError
            If a file can't be written.
        """
        self._check(number, maps, columns, overlays)
        drawn = 0
        if overlays is not None and self.pictures is not None:
            names, drawn = self._draw(number, columns, overlays)
            columns = columns | {"overlay": names}
        array: dict[str, Any] = {}
        self._zarr(array, len(maps))[...] = maps
        # Of a shard without a single map there is no file: the array reads as NaN there.
        data = array[self._place(0)].to_bytes() if self._place(0) in array else b""
        if data:
            path = self.folder / MAPS / self._place(number)
            durable.write(durable.folder(path.parent) / path.name, data)
        failed = sum(error is not None for error in columns["error"])
        shard = Shard(len(maps), failed, digest, len(data), drawn)
        durable.folder(self.folder / PARTS)
        durable.write(self._part(number), _parquet(table(columns), shard._asdict()))
        self.done[number] = shard
        if self.total is None:
            self.describe()

    def finish(self) -> None:
        """All shards are written: make the array and the manifest whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.describe()
        numbers = sorted(self.done)
        rows = pa.concat_tables(
            # Their schemas differ in the metadata.
            pq.read_table(self._part(number)).replace_schema_metadata(None)
            for number in numbers
        )
        facts = {"failed": self.failed, "shards": json.dumps([self.done[number] for number in numbers])}
        durable.write(self.folder / MANIFEST, _parquet(rows, facts))
        durable.remove(self.folder / PARTS)
        self.complete = True

    def _check(
        self,
        number: int,
        maps: NDArray[Any],
        columns: Columns,
        overlays: Sequence[NDArray[np.uint8]] | None,
    ) -> None:
        """Refuse what would put maps beside other images' rows."""
        count = len(maps)
        short = [k for k, shard in self.done.items() if shard.images < self.shard_size]
        if number in self.done or (short and number > short[0]):
            raise ValueError(
                f"maps: expected those of a shard that isn't done, before the last one; shard {number} is done, or "
                f"lies behind shard {short[0] if short else number}, which is the last; got {count}"
            )
        if not 1 <= count <= self.shard_size:
            raise ValueError(f"maps: expected 1 to {self.shard_size}, the images of a shard; got {count}")
        if maps.shape[1:] != self.shape:
            raise ValueError(f"maps: expected {self.shape} each, as the others; got {maps.shape[1:]}")
        lengths = {name: len(column) for name, column in columns.items()}
        lengths |= {} if overlays is None else {"overlays": len(overlays)}
        for name, length in lengths.items():
            if length != count:
                raise ValueError(f"{name}: expected {count}, one for each of the maps; got {length}")

    def _part(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:08d}.parquet"

    def _place(self, number: int) -> str:
        return "/".join(["c", str(number), *"0" * len(self.shape)])

    def _in_parts(self) -> dict[int, Shard]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = {}
        for path in sorted(self.folder.glob(f"{PARTS}/[0-9]*.parquet")):
            try:
                facts = pq.read_metadata(path).metadata
                found[int(path.stem)] = Shard(*(kind(facts[name.encode()].decode()) for name, kind in _FACTS.items()))
            except (pa.ArrowException, OSError, KeyError, ValueError):  # a copy that is no whole one: done again
                continue
        return found

    def _in_manifest(self) -> dict[int, Shard]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder / MANIFEST
        try:
            shards = json.loads(pq.read_metadata(path).metadata[b"shards"])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise damaged(path, error) from None
        return {number: Shard(*facts) for number, facts in enumerate(shards)}

    def _ends(self, number: int, shard: Shard, grow: bool) -> bool:
        """Whether a shard has all the images that it is to have."""
        if self.total is None:
            return shard.images == self.shard_size or not grow
        return shard.images == min(self.shard_size, self.total - number * self.shard_size)

    def _is_whole(self, number: int, shard: Shard) -> bool:
        path = self.folder / MAPS / self._place(number)
        if shard.size and (not path.is_file() or path.stat().st_size != shard.size):
            return False
        if not shard.drawn:
            return True
        folder = self.folder / OVERLAYS / f"{number:08d}"
        if not folder.is_dir():
            return False
        with os.scandir(folder) as entries:
            return sum(one.stat().st_size for one in entries if one.name.endswith(f".{self.pictures}")) == shard.drawn

    def _reopen(self) -> None:
        """A job that was done goes on: its manifest becomes parts again, those of the shards that are there."""
        import pyarrow.parquet as pq

        rows = pq.read_table(self.folder / MANIFEST).replace_schema_metadata(None)
        durable.folder(self.folder / PARTS)
        for number, shard in self.done.items():
            part = rows.slice(number * self.shard_size, shard.images)
            durable.write(self._part(number), _parquet(part, shard._asdict()))
        durable.remove(self.folder / MANIFEST)

    def _draw(
        self, number: int, columns: Columns, overlays: Sequence[NDArray[np.uint8]]
    ) -> tuple[list[str | None], int]:
        """The overlays' names, and their bytes in all."""
        assert self.pictures is not None
        kind, options = PICTURES[self.pictures]
        names: list[str | None] = []
        written = 0
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
            written += picture.getbuffer().nbytes
        return names, written

    def _zarr(self, store: dict[str, Any], images: int) -> Any:
        """An array in memory whose one file is a shard's, or whose metadata is the whole array's."""
        import zarr
        from zarr.codecs import BloscCodec

        return zarr.create_array(
            store=store,
            shape=(images, *self.shape),
            dtype=np.dtype(self.dtype),
            shards=(self.shard_size, *self.shape),
            chunks=(math.gcd(self.shard_size, CHUNK), *self.shape),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
            fill_value=float("nan"),
            dimension_names=("image", *("z", "y", "x")[-len(self.shape) :]),
        )


def _parquet(rows: Any, facts: dict[str, Any]) -> memoryview:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    metadata = {key: str(value) for key, value in facts.items()}
    pq.write_table(rows.replace_schema_metadata(metadata), sink, compression="zstd")
    return memoryview(sink.getvalue())
