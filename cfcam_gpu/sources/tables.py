"""Lists of files, and tables with a file and, if wanted, a target in each row.

CSV is read by Python's own reader: pyarrow's refuses names that are not UTF-8 and rows that end early, takes
``"a"b.png`` for ab.png, and counts rows, not lines, where it says what is wrong.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from .columnar import USUAL_IMAGE, USUAL_TARGET, Columns, one_of, told_of_labels
from .files import DAMAGED, Files
from .items import Item
from .labels import Targets

#: By which tables are known.
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")


def items(files: Files, name: str, columns: Columns, targets: Targets, notes: list[str]) -> Iterator[Item]:
    """The images of a list or table, a line each.

    Parameters
    ----------
    files : Files
    name : str
        Of the table.
    columns : Columns
    targets : Targets
    notes : list of str
        Gets what people should know.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If it is damaged, has not the columns, a line names no file, or a target is no class.
    """
    path = files.path(name)
    try:
        with files.open(name) as file:
            # Lines end with a newline alone: what else Unicode takes for an end may be within a name.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            kind = files.plain(name).lower().removesuffix(".gz").rpartition(".")[2]
            if kind == "txt":
                columns.check_none(path)
                lines = "".join(text).split("\n")
                yield from (Item(line.removesuffix("\r")) for line in lines if line.strip())
            elif kind in ("csv", "tsv"):
                yield from _separated(text, path, "\t" if kind == "tsv" else ",", columns, targets, notes)
            else:
                yield from _objects(text, path, columns, targets, notes)
    except DAMAGED as error:
        raise ValueError(f"source: {path} is damaged: {error}") from None


def _separated(
    text: io.TextIOWrapper, path: str, separator: str, columns: Columns, targets: Targets, notes: list[str]
) -> Iterator[Item]:
    lines = csv.reader(text, strict=True, delimiter=separator)
    try:
        names = [name.strip() for name in next(lines, [])]
        image, target = _columns(names, columns, targets, path, notes)
        if twice := [name for name in (image, target) if name and names.count(name) > 1]:
            raise ValueError(f"source: expected one column {twice[0]!r} in {path}; got {names.count(twice[0])}")
        for values in filter(None, lines):
            row = dict(zip(names, values))
            where = f"line {lines.line_num} of {path}"
            if len(values) > len(names):
                raise ValueError(f"source: {where} has {len(values)} values for {len(names)} columns")
            if not row.get(image):
                raise ValueError(f"source: {where} names no file")
            yield Item(row[image], target=targets.of(row.get(target) if target else None, where))
    except csv.Error as error:
        raise ValueError(f"source: line {lines.line_num} of {path}: {error}") from None


def _objects(text: io.TextIOWrapper, path: str, columns: Columns, targets: Targets, notes: list[str]) -> Iterator[Item]:
    seen: dict[str, None] = {}
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise ValueError(f"source: {where} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"source: {where}: expected an object {{...}}; got {line.strip()[:40]}")
        seen |= dict.fromkeys(row)
        image, target = _columns(list(row), columns, targets, where, notes, all_have_targets=False)
        if not isinstance(row[image], str) or not row[image]:
            raise ValueError(f"source: {where} names no file")
        yield Item(row[image], target=targets.of(row.get(target) if target else None, where))
    if seen:  # at least one line has the target's column
        one_of(list(seen), columns.target, (), "target_column", path)


def _columns(
    names: Sequence[str],
    columns: Columns,
    targets: Targets,
    where: str,
    notes: list[str],
    *,
    all_have_targets: bool = True,
) -> tuple[str, str | None]:
    image = one_of(names, columns.image, USUAL_IMAGE, "image_column", where)
    if image is None:
        raise ValueError(
            f"source: expected a column {', '.join(map(repr, USUAL_IMAGE))} in {where}, or its name as image_column "
            f"(--image-column); got {', '.join(names)}"
        )
    if not targets.read:
        return image, None
    if columns.target is not None and not all_have_targets:
        return image, columns.target
    target = one_of(names, columns.target, USUAL_TARGET, "target_column", where)
    if not notes:
        notes += told_of_labels(names, target, where)
    return image, target
