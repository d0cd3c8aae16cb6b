"""What the plots show, as JSON for the page's script, which draws it with Plotly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from . import words
from .results import Evaluation, Latency, Results

Json = dict[str, Any]

#: The forms of CF-CAM have one hue; the others take the rest, all to be seen on white and on black.
_OURS = {"cfcam": ("solid", "circle"), "cfcam-one": ("dash", "square"), "cfcam-paper": ("dot", "diamond")}
_OUR_COLOUR = "#e4572e"
_COLOURS = (
    "#4c78a8",
    "#3f9b55",
    "#a36fb0",
    "#8d6e5a",
    "#1f9aa0",
    "#b8901f",
    "#808790",
    "#c9648f",
    "#6a6fd1",
    "#7a8f2a",
)
#: Those that the script has a drawing of.
_SYMBOLS = ("triangle-up", "square", "diamond", "cross", "x", "triangle-down", "circle")
_DASHES = ("solid", "dash", "dot", "dashdot")
#: What the two axes begin with, where the results have it.
_FIRST = ("energy_pointing_game", "insertion_auc", "average_drop", "adcc")


def of_model(results: Results, model: str) -> Json:
    """The plots of a model: ``styles`` of its methods, ``curves``, ``metrics`` and ``latencies``.

    Each metric has for each method its mean and interval; each latency record for each of its candidates that computes
    one of the methods the time over the bare forward with quartiles, and milliseconds.
    """
    evaluations = results.of(model)
    methods = list(dict.fromkeys(name for record in evaluations for name in record.methods))
    return {
        "styles": _styles(methods),
        "curves": [curve for record in evaluations for curve in _curves(record)],
        "metrics": [metric for record in evaluations for metric in _metrics(record)],
        "latencies": [latency for record in results.latencies for latency in _latency(record, model, methods)],
    }


def chosen(metrics: Sequence[Json]) -> tuple[str, str]:
    """The metrics that the two axes begin with, of at least one."""
    names = [metric["name"] for metric in metrics]
    best = [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)]
    return best[0], best[min(1, len(best) - 1)]


def _styles(methods: Iterable[str]) -> Json:
    styles: Json = {}
    count = 0
    for name in methods:
        if name in _OURS:
            colour, (dash, symbol) = _OUR_COLOUR, _OURS[name]
        else:
            colour, symbol = _COLOURS[count % len(_COLOURS)], _SYMBOLS[count % len(_SYMBOLS)]
            dash = _DASHES[count // 3 % len(_DASHES)]
            count += 1
        label = _plain(words.NAMES.get(name, name))
        styles[name] = {"label": label, "color": colour, "dash": dash, "symbol": symbol}
    return styles


def _curves(evaluation: Evaluation) -> list[Json]:
    return [
        {
            "metric": metric,
            "title": words.metric(metric).name.removesuffix(" AUC"),
            "markup": _plain(words.metric(metric).name.removesuffix(" AUC")),
            "fractions": [100 * fraction for fraction in evaluation.fractions],
            "scores": {name: scores for name, scores in by_method.items() if scores is not None},
        }
        for metric, by_method in evaluation.curves.items()
        if any(by_method.values())
    ]


def _metrics(evaluation: Evaluation) -> list[Json]:
    by_name: dict[str, Json] = {}
    for line in evaluation.table:
        if line.mean is not None:
            metric = {
                "name": line.metric,
                "title": words.metric(line.metric).name,
                "axis": _plain(words.metric(line.metric).axis),
                "better": line.better,
                "values": {},
            }
            by_name.setdefault(line.metric, metric)["values"][line.method] = list(line.mean)
    return list(by_name.values())


def _latency(record: Latency, model: str, methods: Sequence[str]) -> list[Json]:
    """The record, if it is of the model's network and has one of the methods."""
    points: list[Json] = []
    for name, timing in record.timings.items():
        candidate = words.TIMED.get(name)
        if candidate and candidate.method in methods and timing.over_forward and timing.milliseconds:
            points.append(
                {
                    "label": candidate.name,
                    "method": candidate.method,
                    # Of two that compute the same method the second is drawn hollow.
                    "hollow": any(point["method"] == candidate.method for point in points),
                    "ratio": list(timing.over_forward),
                    "milliseconds": timing.milliseconds.median,
                }
            )
    if record.network != words.NETWORKS.get(model, model) or not points:
        return []
    return [
        {
            "title": f"{record.machine}, {record.date}",
            "axis": _plain(f"x bare forward of {words.network(record.network)}"),
            "points": points,
        }
    ]


def _plain(text: str) -> str:
    """Text in which Plotly, which has a markup of its own, finds none."""
    return escape(text, quote=False)
