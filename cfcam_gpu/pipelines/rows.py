"""A row of the manifest for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..sources.items import plain_text
from ..sources.photographs import Batch
from .found import Found

if TYPE_CHECKING:
    import pyarrow

#: The manifest's columns and their Arrow types, by name; docs/pipelines.md says what is in each. Where `error` is set,
#: those from `target` to `components` are null.
COLUMNS = {
    "index": "int64",
    "source": "string",
    "width": "int32",
    "height": "int32",
    "depth": "int32",
    "pages": "int32",
    "target": "int64",
    "class": "string",
    "probability": "float",
    "predicted": "int64",
    "predicted_class": "string",
    "predicted_probability": "float",
    "empty": "bool",
    "area": "float",
    "centre_x": "float",
    "centre_y": "float",
    "centre_z": "float",
    "entropy": "float",
    "clusters": "int32",
    "noise": "int32",
    "dominant": "int32",
    "dead": "int32",
    "components": "list<struct<name: string, share: double, channels: list<int32>>>",
    "overlay": "string",
    "error": "string",
}

Columns = dict[str, list[Any]]


def columns(found: Found, batch: Batch, *, class_names: Sequence[str] | None = None) -> Columns:
    """The columns of a batch's rows, as :data:`COLUMNS` has them; `overlay` is null.

    Parameters
    ----------
    found : Found
        On the host.
    batch : Batch
        What it was found of: sources, sizes, pages, and the place of the first image, which is that of its map in the
        array.
    class_names : sequence of K str, optional
        ``"class 0"``, ... otherwise.

    Raises
    ------
    ValueError
        If a class has no name among `class_names`.
    """
    count = len(found.errors)
    good = [error is None for error in found.errors]

    def known(values: Any) -> list[Any]:
        """Of each image, a finite value, or None."""
        if values is None:
            return [None] * count
        listed = values if isinstance(values, list) else values.tolist()
        return [
            value if is_good and not (isinstance(value, float) and not math.isfinite(value)) else None
            for value, is_good in zip(listed, good)
        ]

    def named(classes: list[int | None]) -> list[str | None]:
        if class_names is None:
            return [None if k is None else f"class {k}" for k in classes]
        beyond = [k for k in classes if k is not None and k >= len(class_names)]
        if beyond:
            raise ValueError(
                f"class_names: expected a name for every class; got {len(class_names)}, and class {beyond[0]}"
            )
        return [None if k is None else class_names[k] for k in classes]

    target, predicted = known(found.target), known(found.predicted)
    # The last axis of the maps is x, or that of signals.
    centres = dict(zip("xyz", found.centre.flip(1).unbind(dim=1)))
    return {
        "index": list(range(batch.index, batch.index + count)),
        "source": [plain_text(source) for source in batch.sources],
        **{
            name: [None if size is None or len(size) <= axis else size[axis] for size in batch.sizes]
            for axis, name in enumerate(("width", "height", "depth"))
        },
        "pages": list(batch.pages),
        "target": target,
        "class": named(target),
        "probability": known(found.probability),
        "predicted": predicted,
        "predicted_class": named(predicted),
        "predicted_probability": known(found.predicted_probability),
        "empty": known(found.empty),
        "area": known(found.area),
        **{f"centre_{axis}": known(centres.get(axis)) for axis in "xyz"},
        "entropy": known(found.entropy),
        "clusters": known(found.clusters),
        "noise": known(found.noise),
        "dominant": known(found.dominant),
        "dead": known(found.dead),
        "components": known(found.components),
        "overlay": [None] * count,
        "error": [error and plain_text(error) for error in found.errors],
    }


def table(found: Columns) -> pyarrow.Table:
    """The rows as Parquet takes them: columns of the types of :data:`COLUMNS`.

    Parameters
    ----------
    found : dict
        From :func:`columns`.
    """
    import pyarrow as pa

    group = {"name": pa.string(), "share": pa.float64(), "channels": pa.list_(pa.int32())}
    types = {
        name: pa.list_(pa.struct(group)) if name == "components" else pa.type_for_alias(kind)
        for name, kind in COLUMNS.items()
    }
    return pa.table({name: pa.array(found[name], kind) for name, kind in types.items()})
