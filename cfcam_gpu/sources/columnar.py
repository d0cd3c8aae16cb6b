"""The images of Parquet and Arrow files, as Hugging Face's ``datasets`` writes them, and of its data sets in memory."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from . import remote
from .files import Files, reason
from .items import Item
from .labels import Targets

if TYPE_CHECKING:
    import pyarrow

#: By which the files are known.
SUFFIXES = (".parquet", ".arrow", ".feather", ".ipc")


class Columns(NamedTuple):
    """Which columns of a table are meant; None: those that are called as they usually are."""

    image: str | None = None
    target: str | None = None

    def check_none(self, source: str) -> None:
        """Refuse columns of what has none.

        Raises
        ------
        ValueError
            If one is named.
        """
        for option, asked in (("image_column", self.image), ("target_column", self.target)):
            if asked is not None:
                raise ValueError(f"{option}: expected none, as {source} is no table with columns; got {asked!r}")


class Row(NamedTuple):
    """An image's bytes, in a row of a file."""

    file: str
    group: int
    row: int
    column: str

    def read(self, files: Files) -> bytes:
        """The bytes.

        Raises
        ------
        OSError, ValueError
            If there are none, or they can't be read.
        """
        try:
            groups: _Groups = files.kept(self.file, lambda file: _groups(files, self.file, file))
            cell = groups.column(self.group, self.column)[self.row].as_py()
        except _pyarrow().ArrowException as error:
            raise OSError(f"{self.file}: {error}") from error
        return _bytes(cell, files, files.plain(self.file).rpartition("/")[0])


class Cell(NamedTuple):
    """An image's bytes, in a row of a data set in memory."""

    row: int
    column: str

    def read(self, files: Files) -> bytes:
        """The bytes.

        Raises
        ------
        OSError, ValueError
            If there are none.
        """
        assert files.rows is not None
        return _bytes(files.rows[self.row].column(self.column)[0].as_py(), files, "")


def items(files: Files, name: str, columns: Columns, targets: Targets, notes: list[str]) -> Iterator[Item]:
    """The images of a file, a row each.

    Parameters
    ----------
    files : Files
    name : str
        Of the file.
    columns : Columns
    targets : Targets
    notes : list of str
        Gets what people should know.

    Raises
    ------
    ModuleNotFoundError
        If pyarrow is not installed.
    OSError
        If it can't be read.
    ValueError
        If it is damaged, has not the columns, or a target is no class.
    """
    pyarrow = _pyarrow()
    stat, path = files.stat(name), files.path(name)
    try:
        groups = _groups(files, name, files.open(name))
        try:
            image, target, classes = _columns(groups.schema, columns, targets, path, notes)
            is_text = _is_text(groups.schema.field(image).type, image, path)
            wanted = [image] * is_text + ([] if target is None else [target])
            row = 0
            for group, count, table in groups.all(wanted):
                values = [None] * count if target is None else table.column(target).to_pylist()
                names = table.column(image).to_pylist() if is_text else [None] * count
                for inside, (value, file) in enumerate(zip(values, names)):
                    found = targets.of(value, f"row {row} of {path}", classes)
                    if not is_text:
                        place = Row(name, group, inside, image)
                        yield Item(f"{name}/{row}", None, f"{stat.size} {stat.changed}", found, place)
                    elif file:
                        yield Item(file, target=found)
                    else:
                        raise ValueError(f"source: row {row} of {path} names no file")
                    row += 1
        finally:
            groups.close()
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"source: {path} can't be read: {error}") from None


def rows(dataset: Any, columns: Columns, targets: Targets, notes: list[str]) -> tuple[Any, list[Item]]:
    """What gives the rows of a `datasets.Dataset`, and its images.

    Raises
    ------
    TypeError
        If it is none, or one that has no length.
    ValueError
        If it has not the columns, or a target is no class.
    """
    kind = type(dataset)
    if not kind.__module__.startswith("datasets.") or not hasattr(dataset, "with_format"):
        raise TypeError(f"source: expected a path, an address or a datasets.Dataset; got {kind.__name__}")
    if kind.__name__ != "Dataset":
        raise TypeError(f"source: expected a datasets.Dataset, one split; got a {kind.__name__}")
    table = dataset.with_format("arrow")  # images stay as they are: bytes or the names of files
    schema = dataset.features.arrow_schema
    image, target, classes = _columns(schema, columns, targets, "the data set", notes)
    is_text = _is_text(schema.field(image).type, image, "the data set")
    if is_text:
        raise ValueError(f"source: expected images in the column {image} of the data set; got text")
    values = [None] * len(dataset) if target is None else table.select_columns([target])[:].column(target).to_pylist()
    return table, [
        Item(str(row), target=targets.of(value, f"row {row}", classes), place=Cell(row, image))
        for row, value in enumerate(values)
    ]


def one_of(names: Sequence[str], asked: str | None, usual: Sequence[str], option: str, where: str) -> str | None:
    """The column that is asked for, or the first that is called as usual; None if there is none.

    Raises
    ------
    ValueError
        If the one that is asked for isn't there.
    """
    if asked is not None and asked not in names:
        raise ValueError(f"{option}: expected a column of {where}: {', '.join(names)}; got {asked!r}")
    return asked or next((name for name in usual if name in names), None)


#: What the columns are usually called.
USUAL_IMAGE = ("file", "file_name", "image")
USUAL_TARGET = ("target",)


def told_of_labels(names: Sequence[str], target: str | None, where: str) -> list[str]:
    """Tell that a column of labels is not taken for one of targets: its numbers may be those of other classes."""
    if target is None and "label" in names:
        return [f"the column label of {where} is not read; --target-column label has its classes explained"]
    return []


def _columns(
    schema: pyarrow.Schema, columns: Columns, targets: Targets, where: str, notes: list[str]
) -> tuple[str, str | None, list[str] | None]:
    """The columns of images and of targets, and the data set's own names of the classes."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    images = [name for name in schema.names if _kind(features.get(name)) == "Image"]
    image = one_of(schema.names, columns.image, USUAL_IMAGE, "image_column", where) or (
        images[0] if len(images) == 1 else None
    )
    if image is None:
        raise ValueError(
            f"source: expected a column of {where} that is called {', '.join(USUAL_IMAGE)}, or its name as "
            f"image_column (--image-column); got {', '.join(schema.names)}"
        )
    if not targets.read:
        return image, None, None
    target = one_of(schema.names, columns.target, USUAL_TARGET, "target_column", where)
    notes += [note for note in told_of_labels(schema.names, target, where) if note not in notes]
    classes = features[target].get("names") if target and _kind(features.get(target)) == "ClassLabel" else None
    return image, target, classes


def _kind(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, dict) else None


def _is_text(kind: pyarrow.DataType, image: str, where: str) -> bool:
    """Whether a column has names of files, and not images."""
    if _pyarrow().types.is_dictionary(kind):  # pandas' categories
        kind = kind.value_type
    if str(kind) in ("string", "large_string", "string_view"):
        return True
    is_struct = _pyarrow().types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not is_struct and str(kind) not in ("binary", "large_binary", "binary_view"):
        raise ValueError(
            f"source: expected images' bytes, structs of bytes and path, or names of files in the column {image} of "
            f"{where}; got {kind}"
        )
    return False


def _bytes(cell: Any, files: Files, folder: str) -> bytes:
    """What a cell has: bytes, or beside none a file's name, relative to a folder."""
    if isinstance(cell, dict):
        if cell["bytes"] is None and (path := cell.get("path")):
            try:
                return files.read(path if remote.is_address(path) else os.path.join(folder, path))
            except (OSError, ValueError) as error:
                raise OSError(f"{path}: {reason(error)}") from error
        cell = cell["bytes"]
    if cell is None:
        raise OSError("the row has no image")
    data: bytes = cell
    return data


class _Groups(ABC):
    """A file in groups of rows, of which the last that was read is kept."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.last: tuple[int, str, Any] | None = None

    schema: pyarrow.Schema

    @abstractmethod
    def all(self, wanted: Sequence[str]) -> Iterator[tuple[int, int, Any]]:
        """Each group's number, how many rows it has, and a table of these columns of it."""

    @abstractmethod
    def table(self, group: int, column: str) -> Any:
        """A column of a group, in a table."""

    def column(self, group: int, column: str) -> Any:
        """A column of a group."""
        if self.last is None or self.last[:2] != (group, column):
            self.last = None  # two of them at once may be too much
            found = self.table(group, column).column(column)
            # What is damaged must not end the process.
            found.validate(full=True)
            self.last = group, column, found
        return self.last[2]

    def close(self) -> None:
        """Close the file."""
        self.last = None
        self.file.close()


class _Parquet(_Groups):
    def __init__(self, file: Any) -> None:
        import pyarrow.parquet

        super().__init__(file)
        self.parquet = pyarrow.parquet.ParquetFile(file)
        self.schema = self.parquet.schema_arrow

    def all(self, wanted: Sequence[str]) -> Iterator[tuple[int, int, Any]]:
        for group in range(self.parquet.num_row_groups):
            table = self.parquet.read_row_group(group, columns=wanted) if wanted else None
            yield group, self.parquet.metadata.row_group(group).num_rows, table

    def table(self, group: int, column: str) -> Any:
        return self.parquet.read_row_group(group, columns=[column])


class _Arrow(_Groups):
    """Arrow's own format: with an index of the groups at its end, or as a stream of them."""

    def __init__(self, file: Any) -> None:
        from pyarrow import ipc

        super().__init__(file)
        head = file.read(6)
        file.seek(0)
        self.indexed = head == b"ARROW1"
        self.reader: Any = ipc.open_file(file) if self.indexed else ipc.open_stream(file)
        self.next = 0
        self.schema = self.reader.schema

    def all(self, wanted: Sequence[str]) -> Iterator[tuple[int, int, Any]]:
        group = 0
        while (batch := self._batch(group)) is not None:
            yield group, batch.num_rows, batch
            group += 1

    def table(self, group: int, column: str) -> Any:
        return self._batch(group)

    def _batch(self, group: int) -> Any:
        from pyarrow import ipc

        if self.indexed:
            return self.reader.get_batch(group) if group < self.reader.num_record_batches else None
        if group < self.next:
            self.file.seek(0)
            self.reader, self.next = ipc.open_stream(self.file), 0
        try:
            while self.next <= group:
                batch = self.reader.read_next_batch()
                self.next += 1
        except StopIteration:
            return None
        return batch


def _groups(files: Files, name: str, file: IO[bytes]) -> _Groups:
    path, source = files.path(name), file
    kind: type[_Groups] = _Parquet if files.plain(name).lower().endswith(".parquet") else _Arrow
    try:
        if kind is _Arrow and not remote.is_address(path):
            # Of what is mapped, only what is looked at is read.
            file.close()
            source = _pyarrow().memory_map(path)
        return kind(source)
    except BaseException:
        source.close()
        raise


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ModuleNotFoundError("source: pyarrow is not installed; pip install 'cfcam-gpu[pipelines]'") from None
    return pyarrow
