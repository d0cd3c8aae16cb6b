"""What a SOURCE means: which files, and which images are in them."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..image_files import finding, formats
from . import columnar, remote, tables, tars
from .columnar import Columns
from .files import Files, reason
from .items import Item, is_image
from .labels import Targets
from .remote import Stat

_HOW = (
    "a folder, a .txt with a file a line, a .csv, .tsv or .jsonl with the columns file and, if wanted, target, a .tar, "
    "packed or not, a .parquet or .arrow with images, or a pattern or an address of one"
)


class Listing(NamedTuple):
    """What was found: see :class:`cfcam_gpu.pipelines.Photographs`."""

    source: str
    root: str
    items: list[Item]
    notes: list[str]
    rows: Sequence[Any] | None = None


class _Found(NamedTuple):
    """Names of files, relative to a folder, with what is known of them; and what was passed over, by kinds."""

    root: str
    names: dict[str, Stat | None]
    passed_over: Counter[str]


def find(source: Any, skip: Path | None, columns: Columns, targets: Targets) -> Listing:
    """The images of a SOURCE.

    Parameters
    ----------
    source, skip
        See :class:`cfcam_gpu.pipelines.Photographs`.
    columns : Columns
    targets : Targets

    Raises
    ------
    FileNotFoundError, OSError
        If it, or a file of it that holds images, is not there or can't be read.
    ModuleNotFoundError
        If what reads it is not installed.
    TypeError, ValueError
        If it is of no kind or several, damaged, has not the columns, or a target is no class.
    """
    notes: list[str] = []
    if not isinstance(source, (str, os.PathLike)):
        rows, items = columnar.rows(source, columns, targets, notes)
        return Listing(f"a data set of {len(items):,} rows", os.getcwd(), items, notes, rows)
    source = os.fspath(source)
    found = _expanded(source, skip)
    files = Files(found.root)
    kinds = sorted({kind_of(files.plain(name)) or "image" for name in found.names})  # found by what is in it
    if len(kinds) > 1:
        raise ValueError(f"source: expected files of one kind in {source}; got {' and '.join(kinds)}")
    if kinds in (["image"], ["tar"]):
        columns.check_none(source)
    if kinds == ["image"]:
        items = _stamped(files, (Item(name) for name in found.names), found.names)
    elif kinds == ["tar"]:
        seconds: list[tars.Second] = []
        parts = (_of(files, name, tars.items(files, name, targets, seconds, found.passed_over)) for name in found.names)
        items = list(itertools.chain.from_iterable(parts))
        notes += tars.told(seconds)
    else:
        read = tables.items if kinds == ["table"] else columnar.items
        parts = (
            _beside(files.plain(name), _of(files, name, read(files, name, columns, targets, notes)))
            for name in found.names
        )
        items = _stamped(files, itertools.chain.from_iterable(parts), {})
    if found.passed_over:
        notes.append(finding.told(found.passed_over))
    return Listing(source, found.root, items, notes)


def kind_of(name: str) -> str | None:
    """What a file is by its suffix: ``"tar"``, ``"table"``, ``"columns"``, ``"image"``; None: unknown."""
    name = remote.plain(name).lower()
    if name.endswith(tars.SUFFIXES):
        return "tar"
    if name.removesuffix(".gz").endswith(tables.SUFFIXES):
        return "table"
    if name.endswith(columnar.SUFFIXES):
        return "columns"
    return "image" if finding.suffix_of(Path(name)) in formats.SUFFIXES else None


def _is_array(name: str) -> bool:
    return finding.suffix_of(Path(remote.plain(name))) == finding.ARRAYS


def _expanded(source: str, skip: Path | None) -> _Found:
    if os.path.lexists(source):  # a name may look like a pattern
        return _there(source, skip)
    if remote.is_address(source):
        magic = [place for place in map(source.find, "*{") if place >= 0]
    else:
        magic = [place for place in map(source.find, "*?[{") if place >= 0]
        if not magic:
            raise FileNotFoundError(f"source: {source} does not exist; expected {_HOW}")
    parts = _braces(source)
    if len(parts) == 1 and not magic:
        return _at(source)
    # What comes before the first star or brace stays the same where files are added.
    root = source[: min(magic)].rpartition("/")[0]
    root = (
        root if remote.is_address(source) else os.path.join(os.getcwd(), root or (os.sep * source.startswith(os.sep)))
    )
    names, passed_over, missing = dict[str, Stat | None](), Counter[str](), list[str]()
    for part in parts:
        if remote.is_address(part):
            found = _at(part)
        elif os.path.lexists(part):
            found = _there(part, skip)
        elif glob.has_magic(part):
            found = _matching(part, skip, arrays=_is_array(part))
            if not found.names:
                found = _matching(part, skip, arrays=True)
        else:
            missing.append(part)
            continue
        files = Files(found.root)
        names |= {files.path(name).removeprefix(root).lstrip("/"): stat for name, stat in found.names.items()}
        passed_over += found.passed_over
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"source: {', '.join(missing[:3])}{more} does not exist; expected {_HOW}")
    if not names and not passed_over:
        raise FileNotFoundError(f"source: there is nothing that fits {source}; expected {_HOW}")
    return _Found(root, names, passed_over)


def _braces(source: str) -> list[str]:
    if "{" not in source:
        return [source]
    try:
        from braceexpand import braceexpand
    except ModuleNotFoundError:
        raise ModuleNotFoundError("source: braceexpand is not installed; pip install 'cfcam-gpu[pipelines]'") from None
    try:
        return list(braceexpand(source))
    except ValueError as error:
        raise ValueError(f"source: {source} is no pattern: {error}") from None


def _there(path: str, skip: Path | None) -> _Found:
    """What is on this machine."""
    if os.path.isdir(path):
        return _in_folder(path, skip)
    root = os.path.join(os.getcwd(), os.path.dirname(path))
    return _Found(root, {os.path.basename(path): None}, Counter()) if _is_meant(path, True) else _unknown(path)


def _unknown(path: str) -> _Found:
    hint = "; it is packed with Zstandard: unpack it" if path.lower().endswith((".zst", ".tzst")) else ""
    raise ValueError(f"source: expected {_HOW}; got {path}{hint}")


def _is_meant(path: str, arrays: bool) -> bool:
    """Whether a file of this machine is of a kind that is read; NumPy's arrays are where they are asked for."""
    if kind_of(path) is not None or (arrays and _is_array(path)):
        return True
    if finding.suffix_of(Path(path)) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return is_image(file.read(formats.HEAD))


def _in_folder(folder: str, skip: Path | None, *, arrays: bool = True) -> _Found:
    """What is in a folder; NumPy's arrays where there is nothing else, and they are asked for."""
    root = os.path.join(os.getcwd(), folder)
    inside = set(os.listdir(folder))
    if "dataset_dict.json" in inside:
        with open(os.path.join(folder, "dataset_dict.json"), encoding="utf-8") as file:
            splits = json.load(file).get("splits", [])
        ways = ", ".join(f"{folder}/{name}" for name in splits)
        raise ValueError(f"source: {folder} has several data sets; expected one of {ways}")
    if {"state.json", "dataset_info.json"} <= inside:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            return _Found(root, {one["filename"]: None for one in json.load(file)["_data_files"]}, Counter())
    search = finding.Search(Path(folder), (Path(folder) if skip is None else skip).resolve())
    names = [os.path.relpath(path, folder) for path in search]
    if not names:
        for where, folders, others in os.walk(folder):
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and Path(where, name).resolve() not in search.skip  # results are tables
            )
            where = os.path.relpath(where, folder)
            names += [
                os.path.normpath(os.path.join(where, name))
                for name in sorted(others)
                if not name.startswith(".") and kind_of(name) in ("tar", "columns")
            ]
    if arrays and not names:
        names = [os.path.relpath(path, folder) for path in search.take_arrays()]
    passed_over = Counter(search.passed_over)
    for suffix in list(passed_over):
        if names and kind_of(f"x{suffix}") == kind_of(names[0]) is not None:
            del passed_over[suffix]
    return _Found(root, dict.fromkeys(names), passed_over)


def _matching(pattern: str, skip: Path | None, *, arrays: bool) -> _Found:
    names, passed_over = dict[str, Stat | None](), Counter[str]()
    out = None if skip is None else os.path.join(os.path.abspath(skip), "")
    linked = set[str]()
    paths = sorted(set(_fitting(pattern, linked)))
    if linked:
        passed_over[finding.LINKED_FOLDER] += len(linked)
    above = {os.path.dirname(path) for path in paths}
    for path in paths:
        if path.rstrip(os.sep) in above:
            continue  # a folder of which files fit, too
        whole = os.path.join(os.getcwd(), path)
        if out is not None and os.path.join(whole, "").startswith(out):
            continue
        if os.path.isdir(path):
            found = _in_folder(path, skip, arrays=arrays)
            names |= {os.path.join(found.root, name): None for name in found.names}
            passed_over += found.passed_over
        elif _is_meant(path, arrays):
            names[whole] = None
        else:
            passed_over[finding.suffix_of(Path(path)) or finding.NO_SUFFIX] += 1
    return _without_tables(_Found("", names, passed_over))


def _fitting(pattern: str, linked: set[str]) -> Iterator[str]:
    """What fits a pattern. Two stars don't follow links to folders, which `linked` gets: they may lead in circles."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    above = os.sep.join(parts[:at]) or os.sep * at
    rest = os.sep.join(parts[at + 1 :])
    for base in glob.glob(above) if glob.has_magic(above) else [above]:
        for where, folders, files in os.walk(base or os.curdir):
            folder = where if base else os.path.normpath(where).removeprefix(os.curdir)
            within = [name for name in folders if not name.startswith(".")]
            links = {name for name in within if os.path.islink(os.path.join(where, name))}
            linked |= {os.path.join(folder, name) for name in links}
            folders[:] = [name for name in within if name not in links]
            if rest:
                yield from _fitting(os.path.join(glob.escape(folder), rest), linked)
            else:
                names = ["", *files] if folder else files
                yield from (os.path.join(folder, name) for name in names if not name.startswith("."))


def _at(address: str) -> _Found:
    """What is at an address."""
    plain = remote.plain(address)
    if "*" not in address and (kind_of(address) is not None or _is_array(address)):
        root = plain.rpartition("/")[0]
        return _Found(root, {address[len(root) + 1 :]: None}, Counter())
    root, files = remote.find(address)
    visible = {name: stat for name, stat in files.items() if not any(part[:1] == "." for part in name.split("/"))}
    names: dict[str, Stat | None] = {name: stat for name, stat in visible.items() if kind_of(name) is not None}
    if not names or _is_array(address):
        names |= {name: stat for name, stat in visible.items() if _is_array(name)}
    passed_over = Counter(finding.suffix_of(Path(name)) or finding.NO_SUFFIX for name in visible if name not in names)
    if "state.json" in (name.rpartition("/")[2] for name in files):
        names = {name: stat for name, stat in names.items() if kind_of(name) == "columns"}
    return _without_tables(_Found(root, names, passed_over))


def _without_tables(found: _Found) -> _Found:
    """Without lists and tables beside what they may be of."""
    if {kind_of(name) for name in found.names} <= {"table"}:
        return found
    tabled = [name for name in found.names if kind_of(name) == "table"]
    beside = Counter(finding.suffix_of(Path(name)) for name in tabled)
    names = {name: stat for name, stat in found.names.items() if name not in beside and kind_of(name) != "table"}
    return found._replace(names=names, passed_over=found.passed_over + beside)


def _of(files: Files, name: str, items: Iterable[Item]) -> Iterator[Item]:
    """Items, or an error that says which file can't be read."""
    try:
        yield from items
    except OSError as error:
        if error.errno is not None or str(error).startswith("source: "):
            raise
        raise type(error)(f"source: {files.path(name)}: {error}") from error


def _beside(table: str, items: Iterable[Item]) -> Iterator[Item]:
    """Items whose names are relative to the folder of their table."""
    folder = table.rpartition("/")[0]
    for item in items:
        if folder and item.place is None and not remote.is_address(item.source):
            item = item._replace(source=os.path.join(folder, item.source))
        yield item


def _stamped(files: Files, items: Iterable[Item], known: Mapping[str, Stat | None]) -> list[Item]:
    """Items with what is known of their files."""
    result = list(items)
    far = [
        index
        for index, item in enumerate(result)
        if item.place is None and known.get(item.source) is None and remote.is_address(files.path(item.source))
    ]
    told = dict(zip(far, remote.stats([files.path(result[index].source) for index in far])))
    for index, item in enumerate(result):
        if item.place is not None:
            continue
        stat: Stat | Exception | None = known.get(item.source) or told.get(index)
        if stat is None:
            try:
                stat = files.stat(item.source)
            except (OSError, ValueError) as error:  # the latter of a name that no file can have
                stat = error
        if isinstance(stat, Exception):
            stat = Stat(None, reason(stat))
        result[index] = item._replace(size=stat.size, changed=stat.changed)
    return result
