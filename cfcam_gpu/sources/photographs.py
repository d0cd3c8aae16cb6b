"""The images of a source, in a fixed order, read by worker processes batch by batch."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..image_files.photos import Preparation
from ..scans.preparation import VolumePreparation
from . import instances, listing, loaders, remote, volumes
from .columnar import Columns
from .files import Files
from .items import Item, plain_text
from .labels import Targets
from .readers import Batch, Part, Reader

__all__ = ["Batch", "Item", "Part", "Photographs", "Reader"]


class Photographs:
    """The images of a SOURCE, in a fixed order, read by worker processes.

    Parameters
    ----------
    source : path, str or datasets.Dataset
        A folder, searched as :class:`cfcam_gpu.image_files.finding.Search` does, or one of tars or Parquet files; a
        ``.txt`` with a file a line; a ``.csv``, ``.tsv`` or ``.jsonl`` with the columns ``file`` and, if there are any,
        ``target``; a tar of images or of a WebDataset, packed or not; ``.parquet``, ``.arrow`` or a folder of Hugging
        Face's ``save_to_disk``, with a column ``image``; a pattern of any of them, ``shard-{000..123}.tar`` or
        ``photos/**/*.jpg``; any of these by an address that fsspec reads, ``s3://`` or ``https://``; a `Dataset` of
        Hugging Face. Files of a list or table are relative to its folder.
    preparation : Preparation or VolumePreparation
        What the model wants. The latter makes it a source of volumes: a folder with NIfTI files, and with series and
        multi-frame files of DICOM, one such file, or a table of them.
    class_names : sequence of K str, optional
        By which targets may be given. None takes indices only.
    workers : int
        How many processes read; 0 reads in this one.
    skip : Path, optional
        A folder that is not searched.
    image_column : str, optional
        Of a table: the files, or the images' bytes. Default: the first that it has of ``file``, ``file_name`` and
        ``image``.
    target_column : str, optional
        Of a table: the classes to explain, as :func:`cfcam_gpu.sources.labels.target_of` reads them. Default:
        ``target`` where there is one.
    own_targets : bool
        False: the source's targets are not looked at, as others are explained.

    Attributes
    ----------
    items : list of Item
    root : str
        The folder or the address that names of files are relative to.
    unnamed : bool
        Whether there are files of DICOM, whose names, and so that of the source, may be the patient's.
    notes : list of str
        For people: what was passed over, which of several images of a sample is taken.

    Raises
    ------
    FileNotFoundError, OSError
        If `source`, or a file of it that holds images, is not there or can't be read.
    ValueError
        If it is of no kind, has no images or not the columns, a target is no class, a tar is damaged, or `workers` are
        to read what is in the memory of this process.
    ModuleNotFoundError
        If what reads it is not installed: pyarrow, fsspec or what that needs for the address.
    """

    def __init__(
        self,
        source: Any,
        preparation: Preparation | VolumePreparation,
        *,
        class_names: Sequence[str] | None = None,
        workers: int = 0,
        skip: Path | None = None,
        image_column: str | None = None,
        target_column: str | None = None,
        own_targets: bool = True,
    ) -> None:
        columns = Columns(image_column, target_column if own_targets else None)
        targets = Targets(class_names, read=own_targets)
        find = volumes.find if isinstance(preparation, VolumePreparation) else listing.find
        found = find(source, skip, columns, targets)
        self.source = found.source
        self.preparation = preparation
        self.workers = workers
        self.root, self.items, self.notes = found.root, found.items, found.notes
        self._rows = found.rows
        if not self.items:
            raise ValueError(f"source: no images in {self.source}{''.join(f'; {note}' for note in self.notes)}")
        if workers and any(map(remote.in_this_process, (self.root, *(item.source for item in self.items)))):
            raise ValueError(f"workers: expected 0, as memory:// is of this process alone; got {workers}")
        self.unnamed = any(item.files and item.source not in item.files for item in self.items)
        if self.spatial_dims == 2:
            unreadable: list[instances.Unreadable] = []
            names = {item.source for item in self.items}
            self.items = loaders.framed(Files(self.root), self.items, workers, unreadable)
            self.unnamed = any(item.source not in names for item in self.items)
            self.notes += instances.told(unreadable)
        if targets.unlabelled:
            self.notes.append(
                f"{targets.unlabelled:,} images have no class (-1, NaN, None or null): the predicted one is explained"
            )

    @property
    def spatial_dims(self) -> int:
        """Of the images: 3 of volumes."""
        return 3 if isinstance(self.preparation, VolumePreparation) else 2

    def __len__(self) -> int:
        """How many images."""
        return len(self.items)

    def fingerprint(self, count: int) -> str:
        """A digest of the names, sizes and targets of the first `count` images, and of how they are prepared."""
        found = hashlib.blake2b(repr(self.preparation).encode(), digest_size=16)
        for item in self.items[:count]:
            found.update(f"{item.source}\0{item.size}\0{item.target}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def stamps(self, count: int) -> str:
        """A digest of when the first `count` images were changed, as far as their file systems tell."""
        found = hashlib.blake2b(digest_size=16)
        for item in self.items[:count]:
            # What nobody tells the time of may always have changed.
            found.update(f"{item.changed or os.urandom(8).hex()}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def batches(self, size: int, *, starts: Sequence[int] | None = None, pin_memory: bool = False) -> Iterator[Batch]:
        """Batches of `size`, uint8; the last may be smaller.

        Parameters
        ----------
        size : int
        starts : sequence of int, optional
            Which batches, by the places of their first images. Default: all.
        pin_memory : bool
            Have the images in memory that a GPU copies from while the host goes on.

        Raises
        ------
        OSError
            If the shared memory does not hold what the workers read; the message says what to do.
        RuntimeError
            If a worker dies.
        """
        return loaders.loaded(self.reader(), self.parts(size, starts), self.workers, pin_memory=pin_memory)

    def contents(self, size: int, *, starts: Sequence[int]) -> Iterator[tuple[int, str]]:
        """The same without decoding: the places of their first images, and the digests.

        Raises
        ------
        RuntimeError
            If a worker dies.
        """
        return loaders.loaded(self.reader(decoding=False), self.parts(size, starts), self.workers)

    def reader(self, *, decoding: bool = True) -> Reader:
        """What reads :meth:`parts`, in any process that sees the files by the same names."""
        return Reader(self.root, self.preparation, rows=self._rows, decoding=decoding)

    def parts(self, size: int, starts: Sequence[int] | None = None) -> Iterator[Part]:
        """What the batches are read from: `size` items each, from `starts` on; see :meth:`batches`."""
        for start in range(0, len(self.items), size) if starts is None else starts:
            yield Part(start, self.items[start : start + size])

    def ordered(self, sources: Sequence[str]) -> Photographs:
        """The same images with these first, in this order, then what is new.

        Parameters
        ----------
        sources : sequence of str
            Their names, as the manifest has them.

        Raises
        ------
        ValueError
            If there are no such images any more.
        """
        waiting: dict[str, deque[Item]] = {}
        for item in self.items:
            waiting.setdefault(plain_text(item.source), deque()).append(item)
        first, gone = [], []
        for source in sources:
            if found := waiting.get(plain_text(source)):
                first.append(found.popleft())
            else:
                gone.append(source)
        if gone:
            more = f" and {len(gone) - 3:,} more" if len(gone) > 3 else ""
            raise ValueError(f"source: {', '.join(gone[:3])}{more} no longer in {self.source}")
        # Of one name, those that came first are taken first: what is left is in order.
        left = {id(item) for rest in waiting.values() for item in rest}
        result = copy.copy(self)
        result.items = first + [item for item in self.items if id(item) in left]
        return result
