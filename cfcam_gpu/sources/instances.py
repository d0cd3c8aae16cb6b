"""Files of DICOM in a source: each frame an image of its own, called by its UID, as files' names have the patient's."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from ..image_files import finding, formats
from ..scans.dicom.files import Instance
from ..scans.dicom.marks import SUFFIXES
from ..scans.dicom.source import named
from . import remote
from .files import Files, check_regular, reason
from .items import Item, Place
from .tars import Part

#: Bytes from which a header is read first, where a whole file would have to be fetched or unpacked.
HEAD = 1 << 20
#: Files that can't be read and are told by their names.
_TOLD = 8


class Named(NamedTuple):
    """An image's file, whose name is not that of the image."""

    file: str

    def read(self, files: Files) -> bytes:
        """The bytes.

        Raises
        ------
        OSError, ValueError
            If they can't be read.
        """
        return files.read(self.file)


class Unreadable(NamedTuple):
    """A file of DICOM that is called by a digest: by what it is called in the manifest, its own name, and why."""

    source: str
    file: str
    error: str


def may_be(item: Item) -> bool:
    """Whether an item may be a file of DICOM, by its name; a table's cell has none, and stays as it is."""
    return item.error is None and (_called_so(item) or (_suffix(item) == "" and isinstance(item.place, Part | None)))


def framed(files: Files, items: Sequence[Item]) -> list[list[Item]]:
    """For each item one for each of its frames, called by their UIDs; the item itself, if it is not of DICOM.

    Headers alone are read. What is no image, or damaged, is called by a digest of its name and has its error.

    Parameters
    ----------
    files : Files
    items : sequence of Item
        Such as :func:`may_be`.
    """
    if any(item.place is None and remote.is_address(files.path(item.source)) for item in items):
        # They are waited for together.
        return remote.together(lambda item: _frames(files, item), list(items))
    return [_frames(files, item) for item in items]


def called(files: Files, item: Item) -> Item:
    """An item by the UID of its file, whatever frames it has; the item itself, if it is not of DICOM.

    The header alone is read. What is no image, or damaged, is called by a digest of its name and has its error.

    Parameters
    ----------
    files : Files
    item : Item
    """
    return _header(files, item)[0]


def unreadable(item: Item, error: str) -> Item:
    """An item called by a digest of its name, with its error."""
    digest = hashlib.blake2b(item.source.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return item._replace(source=f"unreadable-{digest}", place=_place(item), error=error)


def told(unreadable: Iterable[Unreadable]) -> Iterator[str]:
    """Which files can't be read, for people: they alone learn the names."""
    several = list(unreadable)
    for one in several[:_TOLD]:
        yield f"{one.file}, called {one.source} in the manifest: {one.error}"
    if len(several) > _TOLD:
        yield f"and {len(several) - _TOLD:,} more files of DICOM that can't be read"


def _called_so(item: Item) -> bool:
    return _suffix(item) in SUFFIXES


def _suffix(item: Item) -> str:
    return finding.suffix_of(Path(remote.plain(item.source)))


def _frames(files: Files, item: Item) -> list[Item]:
    """An item for each frame; the item itself, if it is not of DICOM."""
    whole, instance = _header(files, item)
    if instance is None or instance.frames == 1:
        return [whole]
    return [whole._replace(source=named(instance.header, frame), frame=frame) for frame in range(instance.frames)]


def _header(files: Files, item: Item) -> tuple[Item, Instance | None]:
    """An item as :func:`called` has it, and its header, if that is sound."""
    try:
        found = _instance(files, item)
        if found is None:
            return item, None
        instance, size = found
    except (OSError, ImportError, ValueError) as error:  # a name that no file can have is one of the last
        if not isinstance(error, (ImportError, formats.UnreadableError)) and not _called_so(item):
            return item, None
        return unreadable(item, reason(error)), None
    whole = item._replace(source=named(instance.header, None), place=_place(item))
    try:
        instance.check_frames(size)
    except formats.UnreadableError as error:
        return whole._replace(error=str(error)), None
    return whole, instance


def _place(item: Item) -> Place:
    return Named(item.source) if item.place is None else item.place


def _instance(files: Files, item: Item) -> tuple[Instance, int] | None:
    """The header of a file, and the file's size; None if it is not of DICOM."""
    if item.place is None and not remote.is_address(path := files.path(item.source)):
        check_regular(path)
        with open(path, "rb") as file:
            return _checked(file, item, os.path.getsize(path))
    size = item.place.length if isinstance(item.place, Part) else item.size
    if size is not None and size > HEAD:
        if isinstance(item.place, Part):
            start = item.place._replace(length=HEAD).read(files)
        else:
            start = remote.read(files.path(item.source), 0, HEAD)
        try:
            return _checked(io.BytesIO(start), item, size)
        except formats.UnreadableError:
            pass  # it goes on behind these
    data = files.read(item.source) if item.place is None else item.place.read(files)
    return _checked(io.BytesIO(data), item, len(data))


def _checked(file: IO[bytes], item: Item, size: int) -> tuple[Instance, int] | None:
    try:
        if formats.recognise(file.read(formats.HEAD)).name != formats.DICOM:
            return None
    except formats.UnreadableError:
        if _called_so(item):
            raise
        return None
    return Instance(file), size
