"""The images of tars, WebDatasets or not, none of them lost."""

from __future__ import annotations

import itertools
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..image_files import finding, formats
from . import remote
from .files import DAMAGED, Files
from .items import Item, Place, is_image
from .labels import Targets

#: By which tars are known.
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
#: Bytes of a sparse member, its holes counted, which are put together in memory.
SPARSE = 1 << 30
#: What a ``.cls`` may have.
_CLASS = 1024
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_PACKED = {
    b"\x1f\x8b": ".tar.gz",
    b"BZh": ".tar.bz2",
    b"\xfd7zXZ": ".tar.xz",
}


class Part(NamedTuple):
    """A member's bytes, one piece of a tar."""

    tar: str
    offset: int
    length: int

    def read(self, files: Files) -> bytes:
        """The bytes.

        Raises
        ------
        OSError
            If they can't be read.
        """
        try:
            return _piece(files.kept(self.tar, _as_it_is), self.offset, self.length)
        except (OSError, *DAMAGED) as error:
            raise _unread(self.tar, error) from error


class Sparse(NamedTuple):
    """A member's bytes, pieces of a tar with zeros between them: (place in the member, length) each."""

    tar: str
    offset: int
    length: int
    pieces: tuple[tuple[int, int], ...]

    def read(self, files: Files) -> bytes:
        """The bytes.

        Raises
        ------
        OSError
            If they can't be read, or are too many.
        """
        if self.length > SPARSE:
            raise OSError(f"sparse, and {self.length:,} bytes long with its holes: unpack {self.tar}")
        data, at = bytearray(self.length), self.offset
        try:
            file = files.kept(self.tar, _as_it_is)
            for place, length in self.pieces:
                data[place : place + length] = _piece(file, at, length)
                at += length
        except (OSError, *DAMAGED) as error:
            raise _unread(self.tar, error) from error
        return bytes(data)


@dataclass
class _Entry:
    """A member of a tar. A link that is not followed yet has a `link`; where a symbolic one `leads` stays known."""

    name: str
    size: int = 0
    place: Place | None = None
    link: str | None = None
    leads: str | None = None
    image: bool = False
    text: str | None = None
    error: str | None = None

    @property
    def key(self) -> str:
        """What the files of one sample have in common: the name up to its first dot, as WebDataset has it."""
        folder, _, name = self.name.rpartition("/")
        return f"{folder}/{name.partition('.')[0]}"

    @property
    def field(self) -> str:
        """The rest of it: ``"jpg"``, ``"depth.png"``."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


class Second(NamedTuple):
    """An image that was passed over for another one of its sample: which field it is, and both names."""

    field: str
    name: str
    taken: str


def items(
    files: Files, name: str, targets: Targets, seconds: list[Second], passed_over: Counter[str]
) -> Iterator[Item]:
    """The images of a tar, in its order.

    The consecutive files whose names are the same up to the first dot are a sample, as WebDataset has it. If it has
    several images, then those of one plain suffix are taken, the first's (``0.jpg``), and such whose names go on with a
    number (``scan.1.2.png``), which are no field's. Those with another suffix or a field's name (``0.depth.png``) are
    passed over. Where all images have such names, all are taken. An image's class is the ``.cls`` that shares the
    longest part of its name, or the only one of its sample, if that is no other image's. Links are followed within the
    tar.

    Parameters
    ----------
    files : Files
    name : str
        Of the tar.
    targets : Targets
    seconds : list of Second
        Gets the images that are passed over.
    passed_over : Counter of str
        Gets what has no suffix and is no image, and each ``.cls`` of no image that is taken; see
        :func:`cfcam_gpu.image_files.finding.told`.

    Raises
    ------
    OSError
        If the tar can't be read.
    ValueError
        If it is damaged or cut off, or a target is no class.
    """
    stat = files.stat(name)
    found = _entries(files, name)
    entries = [entry for entry in found if entry.field or entry.image]
    if len(found) > len(entries):
        passed_over[finding.NO_SUFFIX] += len(found) - len(entries)
    for key, group in itertools.groupby(entries, key=lambda entry: entry.key if entry.field else None):
        sample = list(group)
        if key is None:
            taken = sample  # images without a suffix
        else:
            taken, others = _chosen([entry for entry in sample if entry.image])
            seconds += [Second(entry.field, f"{name}/{entry.name}", taken[0].name) for entry in others]
        if not taken:
            fields = list(dict.fromkeys(entry.field for entry in sample))
            more = f" and {len(fields) - 8} more" if len(fields) > 8 else ""
            error = f"no image among {', '.join(fields[:8])}{more}"
            yield Item(f"{name}/{sample[0].name}", None, stat.changed, error=error)
        classes = _classes(sample)
        used: set[str] = set()
        seen: Counter[str] = Counter()
        for entry in taken:
            source = f"{name}/{entry.name}"
            base = _class_of(entry, sample, classes)
            texts = classes.get(base, [None])
            target = targets.of(texts[min(seen[entry.name], len(texts) - 1)], f"of {source}")
            used.add(base)
            seen[entry.name] += 1
            yield Item(source, entry.size, stat.changed, target, entry.place, entry.error)
        if taken and targets.read and (unused := classes.keys() - used):
            passed_over[".cls"] += len(unused)


def _chosen(images: list[_Entry]) -> tuple[list[_Entry], list[_Entry]]:
    """Which of a sample's images are taken, and which are passed over."""
    plain = [entry for entry in images if "." not in entry.field]
    if not plain:
        return images, []
    first = plain[0].field
    taken = [entry for entry in images if entry.field == first or ("." in entry.field and not entry.field[0].isalpha())]
    return taken, [entry for entry in images if entry not in taken]


def _classes(sample: Sequence[_Entry]) -> dict[str, list[str | None]]:
    """What each ``.cls`` of a sample says, by its name without that suffix; several where the name comes again."""
    texts: dict[str, list[str | None]] = {}
    for entry in sample:
        if entry.text is not None:
            texts.setdefault(entry.name[: -len(".cls")], []).append(entry.text)
    return texts


def _class_of(image: _Entry, sample: Sequence[_Entry], classes: Mapping[str, object]) -> str:
    """By which of the names in `classes` an image finds its class; empty: by none."""
    base = image.name
    while "." in base.rpartition("/")[2]:
        base = base.rpartition(".")[0]
        if base in classes:
            return base
    (only, *others) = classes or [""]
    # With a number it is of an image of its own, which is not there.
    of_field = only.rpartition("/")[2].partition(".")[2][:1].isalpha()
    is_anothers = any(entry.image and entry.name.startswith(f"{only}.") for entry in sample)
    return only if of_field and not others and not is_anothers else ""


def _entries(files: Files, name: str) -> list[_Entry]:
    """The members that are files, or links to some, but for hidden ones."""
    found: list[_Entry] = []
    last: dict[str, _Entry] = {}
    path = files.path(name)
    try:
        with files.open(name) as file:
            for member in _members(file, path):
                hidden = posixpath.basename(member.name).startswith(".")
                if member.isdir() or hidden:
                    continue
                entry = _entry(file, name, member)
                if member.islnk():
                    _follow(entry, last)
                last[posixpath.normpath(member.name)] = entry
                found.append(entry)
    except tarfile.TarError as error:
        raise ValueError(f"source: {path} can't be read as a tar: {error}{_hint(files, name)}") from None
    except DAMAGED as error:
        raise ValueError(f"source: {path} is damaged or cut off: {error}") from None
    except OSError as error:
        if error.errno is None and not remote.is_address(path):  # of what unpacks it
            raise ValueError(f"source: {path} can't be read: {error}") from None
        raise
    for entry in found:
        if entry.link is not None:
            _follow(entry, last)
    return found


def _members(file: IO[bytes], path: str) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, and of those that are put behind it."""
    while True:
        tar: Any = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  # closes nothing
        while (member := tar.next()) is not None:
            yield member
            tar.members.clear()  # it would keep all of them
        # What tarfile can't read it takes for the end.
        file.seek(tar.offset)
        at = tar.offset
        while (block := file.read(1 << 20)) and not block.strip(b"\0"):
            at += len(block)
        if not block and at - tar.offset < tarfile.BLOCKSIZE:
            raise ValueError(
                f"source: {path} has no end mark: it is cut off at byte {at:,}. If it is whole all the same, append "
                "1,024 zero bytes"
            )
        if not block:
            return
        at += (len(block) - len(block.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        if at == tar.offset:
            raise ValueError(f"source: {path} is damaged or cut off at byte {at:,}")
        file.seek(at)


def _entry(file: IO[bytes], tar: str, member: Any) -> _Entry:
    suffix = finding.suffix_of(Path(member.name))
    entry = _Entry(member.name, member.size, image=suffix in formats.SUFFIXES)
    if member.issym() or member.islnk():
        folder = posixpath.dirname(member.name) if member.issym() else ""
        entry.link = posixpath.normpath(posixpath.join(folder, member.linkname))
        entry.leads = entry.link if member.issym() else None
    elif not member.isfile():
        entry.error = "not a regular file"
    elif member.sparse is not None:
        entry.place = Sparse(tar, member.offset_data, member.size, tuple(member.sparse))
    else:
        entry.place = Part(tar, member.offset_data, member.size)
        if suffix == "":
            file.seek(member.offset_data)
            entry.image = is_image(file.read(min(member.size, formats.HEAD)))
        elif suffix == ".cls":
            file.seek(member.offset_data)
            entry.text = file.read(min(member.size, _CLASS)).decode(errors="replace")
    return entry


def _follow(entry: _Entry, known: dict[str, _Entry]) -> None:
    """Give a link what it leads to."""
    seen = {entry.name}
    while entry.link is not None:
        found = known.get(entry.link) or known.get(_through_folders(entry.link, known))
        if found is None or found.name in seen:
            where = "outside of" if entry.link.startswith(("/", "../")) or entry.link == ".." else "not in"
            entry.error = f"a link to {entry.link}, which is {where} the tar" if found is None else "links in a circle"
            entry.link = None
            return
        seen.add(found.name)
        entry.link, entry.error = found.link, found.error
        entry.size, entry.place, entry.text = found.size, found.place, found.text
        entry.image = entry.image or (found.image and finding.suffix_of(Path(entry.name)) == "")


def _through_folders(path: str, known: Mapping[str, _Entry]) -> str:
    """A path in a tar, with links to folders followed: as many as Linux follows."""
    for _ in range(40):
        parts = path.split("/")
        above = ("/".join(parts[:count]) for count in range(1, len(parts)))
        link = next((folder for folder in above if folder in known and known[folder].leads is not None), None)
        if link is None:
            break
        path = posixpath.normpath(posixpath.join(known[link].leads or "", path[len(link) + 1 :]))
    return path


def told(seconds: Sequence[Second]) -> list[str]:
    """What was passed over, for people."""
    if not seconds:
        return []
    kinds = ", ".join(
        f"{count:,} {field}" for field, count in Counter(second.field for second in seconds).most_common(8)
    )
    first = seconds[0]
    return [f"passed over, as another image of the sample is taken: {kinds}; {first.name} for {first.taken}, for one"]


def _as_it_is(file: IO[bytes]) -> IO[bytes]:
    return file


def _piece(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise EOFError(f"it ends at byte {offset + len(data):,}")
    return data


def _unread(tar: str, error: Exception) -> OSError:
    return OSError(f"{tar}: {getattr(error, 'strerror', None) or error}")


def _hint(files: Files, name: str) -> str:
    """What to do with a tar that is packed against its name."""
    with files.open(name) as file:
        head = file.read(8)
    if head.startswith(_ZSTANDARD):
        return "; it is packed with Zstandard: unpack it"
    packed = next((suffix for magic, suffix in _PACKED.items() if head.startswith(magic)), None)
    return f"; it is packed: its name should end in {packed}" if packed else ""
