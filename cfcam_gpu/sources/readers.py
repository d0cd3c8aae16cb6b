"""Reads the images of a source: their bytes, what these are made of, and what a model sees of them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

import torch
from torch.utils.data import Dataset

from ..image_files import formats, volumes
from ..image_files.photos import Preparation, UnreadableError
from ..scans.dicom import reading
from ..scans.dicom.files import Instance
from ..scans.dicom.source import Source
from ..scans.preparation import VolumePreparation
from . import remote
from .decoding import Decoded, decode
from .files import Files, check_regular, reason
from .instances import Named
from .items import Item

#: Bytes of which a digest takes all. Of what is longer it takes the length, the beginning and the end.
WHOLE = 64 << 20
#: How much of the beginning, and of the end.
END = 1 << 20


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
        Of the content of the images, as they came: of their files' bytes, of which those longer than :data:`WHOLE`
        count by their length, beginning and end.
    """

    sources: list[str]
    images: torch.Tensor
    sizes: list[tuple[int, ...] | None]
    targets: list[int | None]
    errors: list[str | None]
    pages: list[int | None]
    index: int = 0  # type: ignore[assignment]  # a tuple has a method of this name
    digest: str = ""


class Part(NamedTuple):
    """Items that become a batch, and the place of the first in the data set."""

    start: int
    items: list[Item]


class Reader(Dataset[Any]):
    """Reads the images of items, in any process that sees the files by the same names.

    Parameters
    ----------
    root : str
        What names of files are relative to.
    preparation : Preparation or VolumePreparation
    rows : sequence, optional
        The cells of a data set that has no files, by which its items are read.
    decoding : bool
        False: only the digests.
    """

    def __init__(
        self,
        root: str,
        preparation: Preparation | VolumePreparation,
        *,
        rows: Sequence[Any] | None = None,
        decoding: bool = True,
    ) -> None:
        self.files = Files(root, rows)
        self.preparation = preparation
        self.decoding = decoding
        self._frames = _Frames()

    def __getitem__(self, part: Part) -> Any:
        """A :class:`Batch`; its index and digest if it is not decoded."""
        fetched = self._fetched(part.items)
        digest = hashlib.blake2b(b"".join(content.digest for content in fetched), digest_size=16).hexdigest()
        if not self.decoding:
            return part.start, digest
        found = [content.decoded(self.preparation) for content in fetched]
        return Batch(
            sources=[item.source for item in part.items],
            images=torch.stack([image.pixels for image in found]),
            sizes=[image.size for image in found],
            targets=[item.target if isinstance(item.target, int) else None for item in part.items],
            errors=[image.error for image in found],
            pages=[image.pages for image in found],
            index=part.start,
            digest=digest,
        )

    def source(self, item: Item) -> Source | None:
        """What results of an image or a volume of DICOM refer back to; None of any other.

        Raises
        ------
        UnreadableError
            If it can't be read, or no more.
        """
        content = self._content(item)
        if content.error is not None:
            raise UnreadableError(content.error)
        return content.source(self.preparation)

    def close(self) -> None:
        """Close what is open."""
        self.files.close()

    def _fetched(self, items: list[Item]) -> list[_Content]:
        if any(item.place is None and remote.is_address(self.files.path(item.source)) for item in items):
            # They are waited for together.
            return remote.together(self._content, items)
        return [self._content(item) for item in items]

    def _content(self, item: Item) -> _Content:
        if item.error is not None:
            return _Content(error=item.error)
        if item.files:
            return self._volume(item)
        if item.frame is not None:
            return self._frames.of(item, self._whole)
        return self._whole(item)

    def _volume(self, item: Item) -> _Content:
        """The files of a volume, of which the digest alone is made here."""
        found = tuple(Path(self.files.path(name)) for name in item.files)
        try:
            return _Content(found, _digest(len(found), *(self._file(str(path)).digest for path in found)))
        except (OSError, ValueError) as error:  # the latter of a name that no file can have
            return _Content(error=reason(error))
        except MemoryError:
            return _Content(error="not enough memory to read it")

    def _file(self, path: str, size: int | None = None) -> _Content:
        """A file of this machine, or one at an address."""
        if not remote.is_address(path):
            check_regular(path)
            if (length := os.path.getsize(path)) > WHOLE:
                with open(path, "rb") as file:
                    head = file.read(END)
                    file.seek(length - END)
                    return _Content(Path(path), digest=_digest(length, head, file.read(END)))
        return _Content.of(self.files.read(path, size=size))

    def _whole(self, item: Item) -> _Content:
        """What all of an item's file has."""
        try:
            if item.place is not None and not isinstance(item.place, Named):
                return _Content.of(item.place.read(self.files))
            name = item.source if item.place is None else item.place.file
            return self._file(self.files.path(name), item.size)
        except (OSError, ValueError) as error:  # the latter of a name that no file can have
            return _Content(error=reason(error))
        except MemoryError:
            return _Content(error="not enough memory to read it")


class _Content(NamedTuple):
    """An image's bytes, its file where that is long, a volume's files, or why there are none; and which frame it is.

    ``header`` is that of a multi-frame file, read once for all of its frames.
    """

    data: bytes | Path | tuple[Path, ...] = b""
    digest: bytes = bytes(16)
    error: str | None = None
    frame: int = 0
    header: Instance | None = None

    @classmethod
    def of(cls, data: bytes) -> _Content:
        if len(data) > WHOLE:
            return cls(data, _digest(len(data), data[:END], data[-END:]))
        return cls(data, _digest(len(data), data, b""))

    def decoded(self, preparation: Preparation | VolumePreparation) -> Decoded:
        if self.error is not None:
            return Decoded.failed(self.error, preparation)
        if self.header is None:
            return decode(io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data, preparation)
        try:
            with self.opened() as file:
                return decode(self.header.over(file), preparation, self.frame)
        except OSError as error:
            return Decoded.failed(reason(error), preparation)

    def source(self, preparation: Preparation | VolumePreparation) -> Source | None:
        if isinstance(preparation, VolumePreparation):
            data = [self.data] if isinstance(self.data, Path) else self.data
            found = volumes.read(io.BytesIO(data) if isinstance(data, bytes) else data, preparation.channels).source
            return found if isinstance(found, Source) else None
        with self.opened() as file:
            if self.header is not None:
                return reading.source(self.header, self.frame)
            if formats.recognise(file.read(formats.HEAD)).name != formats.DICOM:
                return None
            return reading.source(Instance(file), self.frame)

    def opened(self) -> IO[bytes]:
        assert not isinstance(self.data, tuple)  # a volume has no frames
        return open(self.data, "rb") if isinstance(self.data, Path) else io.BytesIO(self.data)


class _Frames:
    """The multi-frame file that was read last: its frames come one after another, also by several threads."""

    def __init__(self) -> None:
        self._lock, self._file, self._content = Lock(), "", _Content()

    def __reduce__(self) -> tuple[type[_Frames], tuple[()]]:
        return _Frames, ()  # another process has its own

    def of(self, item: Item, whole: Callable[[Item], _Content]) -> _Content:
        """One frame's."""
        file = repr(item.place)
        with self._lock:
            if file != self._file:
                self._file, self._content = "", _Content()
                found = whole(item)
                if found.error is None:
                    try:
                        with found.opened() as opened:
                            found = found._replace(header=Instance(opened))
                    except (OSError, ImportError, UnreadableError) as error:
                        found = _Content(error=reason(error), digest=found.digest)
                self._file, self._content = file, found
            return self._content._replace(frame=item.frame or 0)


def _digest(length: int, *pieces: bytes) -> bytes:
    found = hashlib.blake2b(str(length).encode(), digest_size=16)
    for piece in pieces:
        found.update(piece)
    return found.digest()
