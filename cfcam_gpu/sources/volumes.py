"""What a SOURCE of volumes means: files of NIfTI, and series and multi-frame files of DICOM, called by their UIDs."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from ..image_files import finding, volumes
from ..image_files.pictures import Picture
from . import instances, listing, tables
from .columnar import Columns
from .files import Files, reason
from .items import Item
from .labels import Targets
from .listing import Listing

_HOW = (
    "a folder with NIfTI files or series of DICOM, one such file, or a .csv, .tsv, .jsonl or .txt with the columns "
    "file and, if wanted, target"
)


def find(source: Any, skip: Path | None, columns: Columns, targets: Targets) -> Listing:
    """The volumes of a SOURCE.

    Parameters
    ----------
    source, skip
        See :class:`cfcam_gpu.pipelines.Photographs`; of this machine.
    columns : Columns
    targets : Targets

    Raises
    ------
    FileNotFoundError, OSError
        If it is not there or can't be read.
    ModuleNotFoundError
        If what reads it is not installed.
    ValueError
        If it is of no kind, has not the columns, or a target is no class.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"source: expected {_HOW}; got {type(source).__name__}")
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"source: {source} does not exist; expected {_HOW}")
    notes: list[str] = []
    unreadable: list[instances.Unreadable] = []
    if path.is_file() and (kind := listing.kind_of(path.name)) is not None and kind != "image":
        if kind != "table":
            raise ValueError(f"source: expected {_HOW}; got {source}")
        files = Files(os.path.abspath(path.parent))
        rows = tables.items(files, path.name, columns, targets, notes)
        items = [_stamped(files, _row(files, item, unreadable)) for item in rows]
        notes += instances.told(unreadable)
        return Listing(str(source), files.root, items, notes)
    columns.check_none(str(source))
    files = Files(os.path.abspath(path if path.is_dir() else path.parent))
    passed_over: Counter[str] = Counter()
    found = finding.find([path], skip=skip or path, passed_over=passed_over, search=volumes.Search)
    items = [_stamped(files, _item(files, volume, unreadable)) for volume in volumes.of(found)]
    notes += instances.told(unreadable)
    if passed_over:
        notes.append(finding.told(passed_over))
    return Listing(str(source), files.root, items, notes)


def _row(files: Files, item: Item, unreadable: list[instances.Unreadable]) -> Item:
    """The volume of a table's row: NIfTI by the name of its file, and DICOM by its UID."""
    name = item.source
    item = item._replace(files=(name,))
    if volumes.is_nifti(name):
        return item
    if os.path.isdir(files.path(name)):  # of a series, perhaps, and called by the patient
        found = instances.unreadable(item, "a folder: expected a file in each row, or the folder as SOURCE")
    else:
        found = instances.called(files, item)
    if found.error is not None:
        unreadable.append(instances.Unreadable(found.source, name, found.error))
    return found


def _item(files: Files, volume: Picture, unreadable: list[instances.Unreadable]) -> Item:
    names = [os.path.relpath(os.path.abspath(file), files.root) for file in volume.series or (volume.file,)]
    if volume.dicom:
        return Item(volume.name, files=tuple(names))
    if volume.file.suffix.lower() == ".hdr":
        names.append(os.path.splitext(names[0])[0] + ".img")
    return _row(files, Item(names[0]), unreadable)._replace(files=tuple(names))


def _stamped(files: Files, item: Item) -> Item:
    """With the size of its files together, and the time of the latest change."""
    try:
        stats = [files.stat(name) for name in item.files]
    except (OSError, ValueError) as error:  # the latter of a name that no file can have
        return item._replace(changed=reason(error))
    return item._replace(size=sum(stat.size or 0 for stat in stats), changed=max(stat.changed for stat in stats))
