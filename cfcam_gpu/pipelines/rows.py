"""A row of the manifest for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .batches import Found

#: The manifest's columns and their Arrow types, by name. Where `error` is set, those from `target` to `dead` are null.
COLUMNS = {
    "index": "int64",
    "source": "string",
    "width": "int32",
    "height": "int32",
    "target": "int64",
    "class": "string",
    "probability": "float",
    "empty": "bool",
    "clusters": "int32",
    "noise": "int32",
    "dominant": "int32",
    "dead": "int32",
    "overlay": "string",
    "error": "string",
}

Columns = dict[str, list[Any]]


def columns(
    found: Found,
    sources: Sequence[str],
    sizes: Sequence[tuple[int, int] | None],
    *,
    first: int = 0,
    class_names: Sequence[str] | None = None,
) -> Columns:
    """The columns of a batch's rows, as :data:`COLUMNS` has them; `overlay` is null.

    Parameters
    ----------
    found : Found
        On the host.
    sources : sequence of B str
    sizes : sequence of B (width, height), or None where it isn't known
    first : int
        Index of the first image: where its map is in the array.
    class_names : sequence of K str, optional
        ``"class 0"``, ... otherwise.

    Raises
    ------
    ValueError
        If a class has no name among `class_names`.
    """
    good = [error is None for error in found.errors]

    def known(values: Sequence[Any]) -> list[Any]:
        return [value if is_good else None for value, is_good in zip(values, good)]

    target = known(found.target.tolist())
    if class_names is not None and (beyond := [k for k in target if k is not None and k >= len(class_names)]):
        raise ValueError(f"class_names: expected a name for every class; got {len(class_names)}, and class {beyond[0]}")
    return {
        "index": list(range(first, first + len(good))),
        "source": [_text(source) for source in sources],
        "width": [size and size[0] for size in sizes],
        "height": [size and size[1] for size in sizes],
        "target": target,
        "class": [None if k is None else f"class {k}" if class_names is None else class_names[k] for k in target],
        "probability": known([value if math.isfinite(value) else None for value in found.probability.tolist()]),
        "empty": known(found.empty.tolist()),
        "clusters": known(found.clusters.tolist()),
        "noise": known(found.noise.tolist()),
        "dominant": known(found.dominant.tolist()),
        "dead": known(found.dead.tolist()),
        "overlay": [None] * len(good),
        "error": [error and _text(error) for error in found.errors],
    }


def _text(value: str) -> str:
    """`value` as Parquet takes it: file names hold what is not Unicode, too."""
    return value.encode(errors="replace").decode()
