"""Where images come from: a folder, a list of files, a table with targets, or the tars of a WebDataset."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from ..photographs import models, photos
from ..photographs.photos import Preparation
from .decoding import Decoded, decode

_HOW = "a folder, a .txt with a file a line, a .csv with the columns file and, if wanted, target, or a .tar"


class Batch(NamedTuple):
    """B images on their way into a model, and what is known of them.

    Parameters
    ----------
    sources : list of B str
    images : (B, C, H, W) tensor
    sizes : list of B (width, height), or None where it isn't known
    targets : list of B int or None
    errors : list of B str or None
        Of images that could not be read; zeros stand in their place.
    pages : list of B int or None
        How many pages or frames the file has, of which the first is taken; None where it isn't known.
    index : int
        Place of the first image in the data set.
    digest : str
        Of the content of the images, as they came.
    """

    sources: list[str]
    images: torch.Tensor
    sizes: list[tuple[int, int] | None]
    targets: list[int | None]
    errors: list[str | None]
    pages: list[int | None]
    index: int = 0
    digest: str = ""


class Item(NamedTuple):
    """An image that is not read yet: in a file of its own, or within a tar."""

    source: str
    stamp: str
    target: str | int | None = None
    tar: str | None = None
    offset: int = 0
    length: int = 0
    error: str | None = None


class Photographs:
    """The images of a SOURCE, in a fixed order, read by worker processes.

    Parameters
    ----------
    source : path or str
        A folder, searched as :func:`cfcam_gpu.photographs.photos.find` does; a ``.txt`` with a file a line; a ``.csv``
        with the columns ``file`` and, if there are any, ``target`` (an empty one is the predicted class); a ``.tar`` of
        a WebDataset, or a pattern of them, ``shard-{000..123}.tar``. Files of a list or table are relative to its
        folder. Of each sample of a WebDataset the first image by suffix is taken; its ``.cls`` is the target.
    preparation : Preparation
        What the model wants.
    class_names : sequence of K str, optional
        By which targets may be given. None takes indices only.
    workers : int
        How many processes read; 0 reads in this one.
    skip : Path, optional
        A folder that is not searched.

    Raises
    ------
    FileNotFoundError, OSError
        If `source`, or a tar of it, is not there or can't be read.
    ValueError
        If it is of no kind, has no images, a target is no class, or a tar is damaged or compressed.
    ModuleNotFoundError
        If it is a WebDataset and webdataset is not installed.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        preparation: Preparation,
        *,
        class_names: Sequence[str] | None = None,
        workers: int = 0,
        skip: Path | None = None,
    ) -> None:
        self.source = os.fspath(source)
        self.preparation = preparation
        self.workers = workers
        self.root, self.items = _find(self.source, skip)
        if not self.items:
            raise ValueError(f"source: no images in {self.source}")
        self.items = [_with_class(item, class_names) for item in self.items]

    def __len__(self) -> int:
        """How many images."""
        return len(self.items)

    @property
    def fingerprint(self) -> str:
        """A digest of the images' names, sizes, times of change and targets, and of how they are prepared."""
        found = hashlib.blake2b(repr(self.preparation).encode(), digest_size=16)
        for item in self.items:
            found.update(f"{item.source}\0{item.stamp}\0{item.target}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def batches(self, size: int, *, start: int = 0, pin_memory: bool = False) -> Iterator[Batch]:
        """Batches of `size` from image `start` on, uint8; the last may be smaller.

        Parameters
        ----------
        size : int
        start : int
        pin_memory : bool
            Have the images in memory that a GPU copies from while the host goes on.
        """
        plan = (self.items[first : first + size] for first in range(start, len(self.items), size))
        return iter(
            DataLoader(
                Reader(self.root, self.preparation),
                # The sampler hands each batch's items to a worker: none holds the list of all.
                sampler=_Plan(plan),
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=self.workers,
                pin_memory=pin_memory,
            )
        )


class _Plan(torch.utils.data.Sampler[list[Item]]):
    def __init__(self, plan: Iterable[list[Item]]) -> None:
        self.plan = plan

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.plan)


class Reader(Dataset[Batch]):
    """Reads the images of items, in a worker."""

    def __init__(self, root: Path, preparation: Preparation) -> None:
        self.root = root
        self.preparation = preparation

    def __getitem__(self, items: list[Item]) -> Batch:
        found = [self._read(item) for item in items]
        return Batch(
            sources=[item.source for item in items],
            images=torch.stack([image.pixels for image in found]),
            sizes=[image.size for image in found],
            targets=[item.target if isinstance(item.target, int) else None for item in items],
            errors=[image.error for image in found],
            pages=[None] * len(items),
        )

    def _read(self, item: Item) -> Decoded:
        if item.error is not None:
            return Decoded.failed(item.error, self.preparation)
        if item.tar is None:
            return decode(self.root / item.source, self.preparation)
        try:
            with open(self.root / item.tar, "rb") as file:
                file.seek(item.offset)
                data = file.read(item.length)
        except OSError as error:
            return Decoded.failed(f"{item.tar}: {error.strerror or error}", self.preparation)
        return decode(io.BytesIO(data), self.preparation)


def _as_it_is(batch: Any) -> Any:
    return batch


def _find(source: str, skip: Path | None) -> tuple[Path, list[Item]]:
    path = Path(source)
    if path.is_dir():
        skipped = (path if skip is None else skip).resolve()
        names = [os.path.relpath(file, path) for file in photos.search(path, skipped)]
        return path, [Item(name, _stamp(path / name)) for name in names]
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return _find_in_tars(source)
    if not path.is_file():
        raise FileNotFoundError(f"source: {source} does not exist; expected {_HOW} (pattern)")
    if suffix == ".txt":
        # Lines end with a newline alone: what else Unicode takes for an end may be within a name.
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
        return path.parent, [Item(line, _stamp(path.parent / line)) for line in lines if line.strip()]
    if suffix == ".csv":
        return path.parent, _read_table(path)
    raise ValueError(f"source: expected {_HOW} (pattern); got {source}")


def _read_table(path: Path) -> list[Item]:
    items = []
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = csv.reader(file, strict=True)
        try:
            columns = [name.strip() for name in next(lines, [])]
            if "file" not in columns:
                raise ValueError(f"source: expected a column 'file' in {path}; got {', '.join(columns)}")
            for values in filter(None, lines):
                row = dict(zip(columns, values))
                if len(values) > len(columns):
                    raise ValueError(
                        f"source: line {lines.line_num} of {path} has {len(values)} values for {len(columns)} columns"
                    )
                if not row.get("file"):
                    raise ValueError(f"source: line {lines.line_num} of {path} names no file")
                target = row.get("target", "").strip() or None
                items.append(Item(row["file"], _stamp(path.parent / row["file"]), target))
        except csv.Error as error:
            raise ValueError(f"source: line {lines.line_num} of {path}: {error}") from None
    return items


def _stamp(path: Path) -> str:
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # the latter of a name that no file can have
        return str(getattr(error, "strerror", error))
    return f"{found.st_size} {found.st_mtime_ns}"


def _with_class(item: Item, names: Sequence[str] | None) -> Item:
    if item.target is None:
        return item
    try:
        if names is None and not str(item.target).isdecimal():
            raise ValueError(f"target: expected a class index, as no class names are given; got {item.target!r}")
        index = int(item.target) if names is None else models.class_index(str(item.target), names)
    except ValueError as error:
        raise ValueError(f"source: of {item.source}: {error}") from None
    return item._replace(target=index)


def _find_in_tars(pattern: str) -> tuple[Path, list[Item]]:
    try:
        from webdataset.shardlists import expand_urls
    except ModuleNotFoundError:
        raise ModuleNotFoundError("source: webdataset is not installed; pip install 'cfcam-gpu[pipelines]'") from None
    tars = [Path(name) for name in expand_urls(pattern)]
    missing = [str(tar) for tar in tars if not tar.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"source: {', '.join(missing[:3])}{more} does not exist; expected {_HOW} (pattern)")
    root = Path(os.path.commonpath([tar.parent for tar in tars]))
    return root, [item for tar in tars for item in _list_tar(tar, os.path.relpath(tar, root))]


def _list_tar(path: Path, name: str) -> Iterator[Item]:
    """The samples of a tar: consecutive files of one name up to its suffixes, as webdataset has it."""
    from webdataset.tariterators import base_plus_ext

    stamp = _stamp(path)
    key: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                base, suffix = base_plus_ext(member.name)
                if not member.isfile() or base is None:
                    continue
                if base != key and members:
                    yield _sample(tar, name, stamp, members)
                    members = {}
                key = base
                members[suffix.lower()] = member
            if members:
                yield _sample(tar, name, stamp, members)
            _check_end(tar, path)
    except tarfile.TarError as error:
        raise ValueError(f"source: {path} can't be read as an uncompressed tar: {error}") from None


def _sample(tar: tarfile.TarFile, name: str, stamp: str, members: dict[str, tarfile.TarInfo]) -> Item:
    target = None
    if "cls" in members and (content := tar.extractfile(members["cls"])) is not None:
        target = content.read().decode(errors="replace").strip() or None
    for suffix, member in members.items():
        if f".{suffix.rpartition('.')[2]}" in photos.SUFFIXES:
            return Item(
                f"{name}/{member.name}", f"{stamp} {member.size}", target, name, member.offset_data, member.size
            )
    files = list(members.values())
    return Item(f"{name}/{files[0].name}", stamp, None, name, error=f"no image among {', '.join(members)}")


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """Refuse a tar that ends in something else than nothing: what tarfile can't read, it takes for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0") or tar.offset > path.stat().st_size:
        raise ValueError(f"source: {path} is damaged or cut off at byte {tar.offset:,}")
