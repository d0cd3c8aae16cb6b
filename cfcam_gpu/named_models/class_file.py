"""Names of classes in a file, or by folders: what ``--classes`` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Text that is no name a line, though it could be read as such.
_TABLES = (".csv", ".tsv")
_YAML = (".yaml", ".yml")


def read(path: Path) -> tuple[str, ...]:
    """The names of a model's classes, by index.

    Parameters
    ----------
    path : Path
        A text file (UTF-8) with a name a line; JSON, by its suffix ``.json``: a list of names, an object from index to
        name (``id2label`` of transformers), or from name to index (``class_to_idx`` of torchvision's ImageFolder,
        ``label2id``); YAML, by ``.yaml`` or ``.yml``: the ``names`` of a data file of YOLO, a list or from index to
        name; or a folder, whose sub-folders in alphabetical order are the classes, as ImageFolder has them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If it is YAML, and PyYAML is not installed.
    OSError
        If it can't be read.
    ValueError
        If it has no names, a name is empty, or the indices are not those from 0 on; the message names the file.
    """
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not names:
            raise ValueError(f"classes: expected sub-folders, one for each class, in {path}; got none")
        return tuple(names)
    if not path.is_file():
        raise FileNotFoundError(f"classes: {path} is not a file")
    if path.suffix.lower() in _TABLES:
        raise ValueError(
            f"classes: expected a text file with a name a line, .json, .yaml, or a folder; got {path}. Save its names "
            "alone"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"classes: expected {path} to be text in UTF-8; got other bytes ({error.reason})") from error
    suffix = path.suffix.lower()
    of = _of_json if suffix == ".json" else _of_yaml if suffix in _YAML else _of_lines
    names = of(text, path)
    if not names:
        raise ValueError(f"classes: expected names in {path}; got none")
    for index, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"classes: expected a name for class {index} in {path}; got an empty one")
    return tuple(names)


def check(names: tuple[str, ...], logits: int, path: Path | None) -> None:
    """Refuse more or fewer names than a model has logits.

    Raises
    ------
    ValueError
        The message has both numbers.
    """
    if len(names) != logits:
        raise ValueError(
            f"classes: expected {logits} names, one for each of the model's logits; {path} has {len(names)}"
        )


def _of_lines(text: str, path: Path) -> list[str]:
    if text.lstrip()[:1] in ("{", "["):
        raise ValueError(f"classes: {path} begins as JSON does; call it .json")
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def _of_json(text: str, path: Path) -> list[str]:
    try:
        said: Any = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    except json.JSONDecodeError as error:
        raise ValueError(f"classes: {path} is no JSON: {error}") from error
    if isinstance(said, list) and all(isinstance(name, str) for name in said):
        return said
    by_index: list[tuple[int, str]] = []
    if isinstance(said, Mapping):
        for key, value in said.items():
            # Names may be numbers, too: the side whose values are numbers and not text has the indices.
            index, name = (value, key) if isinstance(value, int) and not isinstance(value, bool) else (key, value)
            if not isinstance(name, str) or not str(index).isdecimal():
                by_index = []
                break
            by_index.append((int(index), name))
    if not by_index:
        raise ValueError(
            f'classes: expected {path} to have a list of names, or an object such as {{"0": "cat"}} or {{"cat": 0}}'
        )
    return _in_order(by_index, path)


def _of_yaml(text: str, path: Path) -> list[str]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"classes: PyYAML, which reads {path}, is not installed; pip install pyyaml, or save its names alone in a "
            ".txt, a name a line"
        ) from None
    try:
        # Of nodes, nothing is taken for anything but the text that it is: the names no, on and 7, for three.
        document = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"classes: {path} is no YAML: {error}") from error
    top = document.value if isinstance(document, yaml.MappingNode) else []
    found = [value for key, value in top if key.value == "names"]
    said: Any = found[0].value if len(found) == 1 else ""
    if said and isinstance(found[0], yaml.SequenceNode) and all(isinstance(name, yaml.ScalarNode) for name in said):
        return [name.value for name in said]
    if (
        said
        and isinstance(found[0], yaml.MappingNode)
        and all(isinstance(index, yaml.ScalarNode) and index.value.isdecimal() for index, _ in said)
        and all(isinstance(name, yaml.ScalarNode) for _, name in said)
    ):
        return _in_order([(int(index.value), name.value) for index, name in said], path)
    raise ValueError(
        f"classes: expected {path} to have names, a list such as [cat, dog] or by index as {{0: cat, 1: dog}}, as data "
        "files of YOLO have them"
    )


def _in_order(by_index: Sequence[tuple[int, str]], path: Path) -> list[str]:
    """Names whose indices are those from 0 on, each once."""
    found: dict[int, str] = {}
    for index, name in by_index:
        if index in found:
            raise ValueError(f"classes: expected one name for class {index} in {path}; got several")
        found[index] = name
    if sorted(found) != list(range(len(found))):
        missing = next(index for index in range(max(found) + 1) if index not in found)
        raise ValueError(f"classes: expected the indices from 0 on in {path}; {missing} is missing")
    return [found[index] for index in range(len(found))]


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"classes: {path} has a key twice")
    return found
