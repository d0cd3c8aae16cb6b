"""Results: rows of single measurements, and the table that sums them up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table

from .. import metrics
from ..metrics import Curve, Interval
from ..results import durable
from .measures import Better


class Row(NamedTuple):
    """One measurement: a value, or why there is none; and the curve of one image where the value is its area."""

    method: str
    image: str
    metric: str
    value: float | None
    error: str | None
    curve: Curve | None = None

    @classmethod
    def of(cls, method: str, image: str, metric: str, outcome: float | str | Curve) -> Row:
        """A row of what came out: a number, a curve, or a message."""
        if isinstance(outcome, str):
            return cls(method, image, metric, None, outcome)
        if isinstance(outcome, Curve):
            return cls(method, image, metric, float(outcome.auc), None, outcome)
        return cls(method, image, metric, outcome, None)


class Summary(NamedTuple):
    """A method in a metric.

    ``images`` is how many were measured, ``errors`` how many of them failed. Where one did, there is no ``mean``, and
    no ``difference`` (method minus reference, image by image); it would be one of other images. With no images the
    metric doesn't apply to the method. Both have 95% intervals.
    """

    metric: str
    better: Better
    method: str
    images: int
    errors: int
    mean: Interval | None
    difference: Interval | None

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        found = self._asdict()
        return found | {key: value and value._asdict() for key, value in found.items() if isinstance(value, Interval)}


def summarise(
    rows: Sequence[Row], measured: Mapping[str, Better], methods: Sequence[str], reference: str, *, seed: int = 0
) -> list[Summary]:
    """Means over images and paired differences, with bootstrap intervals.

    Parameters
    ----------
    rows : sequence of Row
    measured : mapping of str
        Metrics, and whether high or low is better.
    methods : sequence of str
    reference : str
        One of `methods`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    list of Summary
        Metric by metric, the methods in their order.
    """
    found: dict[tuple[str, str], dict[str, float | None]] = {
        (metric, method): {} for metric in measured for method in methods
    }
    for row in rows:
        found[row.metric, row.method][row.image] = row.value
    summaries = []
    for (metric, method), values in found.items():
        own, others = _whole(values), _whole(found[metric, reference])
        mean = difference = None
        if own:
            mean = metrics.mean_interval(torch.tensor(list(own.values()), dtype=torch.float64), seed=seed)
        if own and others and method != reference:
            pairs = torch.tensor([(own[image], others[image]) for image in others], dtype=torch.float64)
            difference = metrics.paired_difference(pairs[:, 0], pairs[:, 1], seed=seed)
        errors = sum(value is None for value in values.values())
        summaries.append(Summary(metric, measured[metric], method, len(values), errors, mean, difference))
    return summaries


def _whole(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values by image if none is missing, else nothing."""
    there = {image: value for image, value in values.items() if value is not None}
    return there if len(there) == len(values) else {}


def mean_curves(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean curves over images, as JSON takes them.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    dict
        ``fractions``: S + 1 shares of pixels changed. ``curves``: for each metric that has curves and each method the
        mean of its S + 1 scores, to four decimals; None where an image failed. Without curves an empty dict.
    """
    found: dict[str, dict[str, list[Curve | None]]] = {row.metric: {} for row in rows if row.curve is not None}
    for row in rows:
        if row.metric in found:
            found[row.metric].setdefault(row.method, []).append(row.curve)
    curves = {metric: {name: _mean(given) for name, given in by.items()} for metric, by in found.items()}
    fractions = next((row.curve.fractions.tolist() for row in rows if row.curve is not None), None)
    return {} if fractions is None else {"fractions": fractions, "curves": curves}


def _mean(curves: Sequence[Curve | None]) -> list[float] | None:
    whole = [curve.scores[0] for curve in curves if curve is not None]
    if len(whole) < len(curves):
        return None
    return [round(value, 4) for value in torch.stack(whole).mean(dim=0).tolist()]


def draw(summaries: Sequence[Summary], reference: str) -> Iterator[Table]:
    """The summaries for people, a table for each metric."""
    for (metric, better), group in groupby(summaries, key=lambda one: (one.metric, one.better)):
        table = Table("method", box=None, title=f"{metric} ({better} is better)", title_justify="left")
        for title in ("mean", "95%", f"minus {reference}", "95%", "images", "failed"):
            table.add_column(title, justify="right", no_wrap=True)
        for one in group:
            if one.images:
                counts = str(one.images), str(one.errors) if one.errors else ""
                table.add_row(one.method, *_told(one.mean), *_told(one.difference, sign="+"), *counts)
            else:
                table.add_row(one.method, "does not apply")
        yield table


def _told(interval: Interval | None, *, sign: str = "") -> tuple[str, str]:
    if interval is None:
        return "-", ""
    return f"{interval.mean:{sign}.2f}", f"[{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as Parquet, a column for each of their fields but the curve, which is left out."""
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.string()
    types = {"method": text, "image": text, "metric": text, "value": pyarrow.float64(), "error": text}
    table = pyarrow.Table.from_pylist([row._asdict() for row in rows], schema=pyarrow.schema(types))
    with durable.replacing(path) as file:
        parquet.write_table(table, file)
