"""The table of a slide's tiles, in parts while they are explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipelines.found import Found
from ..results import durable
from .tiles import Plan

TABLE = "tiles.parquet"


def rows(plan: Plan, tiles: Sequence[int], found: Sequence[Found], classes: Sequence[int]) -> Any:
    """Make the rows of some tiles.

    Parameters
    ----------
    plan : Plan
    tiles : sequence of int
        Their indices.
    found : sequence of Found
        Of each class, on the host.
    classes : sequence of int

    Returns
    -------
    pyarrow.Table
        Columns ``tile``, its index; ``column`` and ``row`` among the tiles; ``x``, ``y`` and ``size``, in pixels of
        level 0; ``predicted`` and ``predicted_probability``; of each class, by its index, ``probability_7``, and
        ``evidence_7``, the mean of what the tile adds to the map; ``error``, null where there is none. All that the
        model says is null where there is one.
    """
    import pyarrow as pa

    places, corners = plan.places[tiles], plan.corners[tiles] * float(plan.scale)
    errors = failures(found)
    bad = np.array([error is not None for error in errors])
    columns = {
        "tile": pa.array(np.asarray(tiles, np.int64)),
        "column": pa.array(places[:, 0]),
        "row": pa.array(places[:, 1]),
        "x": pa.array(corners[:, 0]),
        "y": pa.array(corners[:, 1]),
        "size": pa.array(np.full(len(tiles), plan.tile * float(plan.scale))),
        "predicted": pa.array(found[0].predicted.numpy(), mask=bad),
        "predicted_probability": pa.array(found[0].predicted_probability.float().numpy(), mask=bad),
    }
    for index, of_class in zip(classes, found):
        columns[f"probability_{index}"] = pa.array(of_class.probability.float().numpy(), mask=bad)
        columns[f"evidence_{index}"] = pa.array(evidence(of_class).mean(axis=(1, 2), dtype=np.float32), mask=bad)
    columns["error"] = pa.array(errors, pa.string())
    return pa.table(columns)


def failures(found: Sequence[Found]) -> list[str | None]:
    """Why each tile of a batch has no map; None where it has one of every class."""
    return [
        next((error for error in of_tile if error is not None), None) for of_tile in zip(*(f.errors for f in found))
    ]


def evidence(found: Found) -> NDArray[np.float32]:
    """What tiles add to the slide's map, (B, S, S): each one's map times the probability that it is of the class.

    A map alone is over its own maximum, so that a tile of nothing would show as much as one of all.
    """
    values: NDArray[np.float32] = (found.maps.float() * found.probability.float()[:, None, None]).numpy()
    return values


def keep(path: Path, found: Any) -> None:
    """Write rows to a file, at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(found, sink, compression="zstd")
    durable.write(path, memoryview(sink.getvalue()))


def joined(paths: Sequence[Path]) -> Any:
    """The rows of several files, one after another: a pyarrow.Table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables(pq.read_table(path) for path in paths)
