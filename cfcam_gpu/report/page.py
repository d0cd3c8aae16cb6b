"""The page: checked first, then drawn and written whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..evaluation.ranks import rank
from ..evaluation.table import Summary
from ..named_models import models
from ..results import durable, saving
from . import gallery, plots, words
from .gallery import Gallery
from .results import Evaluation, Latency, Results, Spread, read

#: What the extra "report" brings.
PACKAGES = ("jinja2", "plotly")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Parameters
    ----------
    results : sequence of Path
        See :func:`cfcam_gpu.report.results.read`.
    out : Path
        The page.
    photographs : sequence of Path
        Photographs and folders of them; none is those of the demonstration.
    title : str
    trust_models : bool
        Whether to load models that the results name as package.module:factory, which runs that code.
    overwrite : bool
    """

    results: Sequence[Path]
    out: Path
    photographs: Sequence[Path] = ()
    title: str = "Class activation maps, measured"
    trust_models: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Report:
    """A job that was found sound, ready to be drawn."""

    job: Job
    results: Results
    galleries: tuple[Gallery, ...]

    @property
    def steps(self) -> int:
        """How many maps there are to draw, of all models, and parts of maps to find."""
        return sum(gallery.steps for gallery in self.galleries)

    def write(self, done: Callable[[int], None]) -> list[str]:
        """Draw and write the page; `done` hears of each map.

        Returns
        -------
        list of str
            What failed: the page says it too.

        Raises
        ------
        OSError
            If the page can't be written.
        """
        pages, failed = [], []
        for i, (model, of_model) in enumerate(zip(self.results.models, self.galleries)):
            rows = of_model.draw(done)
            failed += [f"{row.file}: {tile.method}: {tile.error}" for row in rows for tile in row.tiles if tile.error]
            failed += [f"{row.file}: groups of channels: {row.parts_error}" for row in rows if row.parts_error]
            pages.append(_model(f"model-{i + 1}", self.results, model, of_model, rows))
        text = _render(self.job.title, self.results, pages)
        self.job.out.parent.mkdir(parents=True, exist_ok=True)
        with durable.replacing(self.job.out) as file:
            file.write(text.encode())
        return failed


def check(job: Job, loaded: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Find whatever is wrong with a job before any of it is done; `loaded` hears how many of all models are loaded.

    Raises
    ------
    FileNotFoundError, FileExistsError, OSError
        If results or photographs are missing, or the page is there already.
    ImportError, TypeError, ValueError, RuntimeError
        If a package is not installed, or results, photographs or the models named by results can't be what is meant;
        the message says why.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed; pip install 'cfcam-gpu[report]'")
    if job.out.is_dir():
        raise IsADirectoryError(f"out: expected a file; {job.out} is a folder")
    saving.check_free([job.out], overwrite=job.overwrite)
    results = read(job.results)
    code = [name for name in results.models if models.is_code(name)]
    if code and not job.trust_models:
        raise ValueError(
            f"results: {', '.join(code)} is code that would be imported and run; if these results are your own, give "
            "--trust-models"
        )
    if job.photographs and not results.models:
        raise ValueError("gallery: the results are of latency only, so there is no model to explain photographs with")
    photographs = gallery.find(job.photographs, skip=job.out) if results.models else []
    galleries: list[Gallery] = []
    for model in results.models:
        loaded(len(galleries), len(results.models))
        methods = list(dict.fromkeys(name for evaluation in results.of(model) for name in evaluation.methods))
        first, *_ = results.of(model)
        weights = results.weights_of(model)
        galleries.append(
            gallery.check(model, methods, photographs, weights, asked=first.asked, class_names=first.class_names)
        )
        loaded(len(galleries), len(results.models))
    return Report(job, results, tuple(galleries))


class Cell(NamedTuple):
    """A method in a metric, in print.

    ``value`` sorts; ``verdict``, against the reference, is "better", "worse" or "".
    """

    value: float | None
    mean: str
    interval: str = ""
    difference: str = ""
    verdict: str = ""
    failed: bool = False


def cell(line: Summary) -> Cell:
    """A line of the table, in print."""
    if not line.images:
        return Cell(None, "does not apply")
    if line.mean is None:
        return Cell(None, f"{line.errors} of {line.images} failed", failed=True)
    decimals = words.metric(line.metric).decimals
    mean, low, high = (_number(value, decimals) for value in line.mean)
    if line.difference is None:
        return Cell(line.mean.mean, mean, f"[{low}, {high}]")
    by, least, most = (_number(value, decimals, sign="+") for value in line.difference)
    verdict = ""
    # What rounds to nothing is nothing: some methods are the same but for the last digits of float32.
    if (line.difference.low > 0 or line.difference.high < 0) and round(line.difference.mean, decimals):
        verdict = "better" if (line.difference.low > 0) == (line.better == "high") else "worse"
    return Cell(line.mean.mean, mean, f"[{low}, {high}]", f"{by} [{least}, {most}]", verdict)


def _number(value: float, decimals: int, *, sign: str = "") -> str:
    # Adding 0 makes -0.0 a 0.0.
    value = round(value, decimals) + 0.0
    return f"{value:{sign if value else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _model(
    identity: str, results: Results, model: str, model_gallery: Gallery, rows: Sequence[gallery.Row]
) -> dict[str, Any]:
    evaluations = results.of(model)
    drawn = plots.of_model(results, model)
    # What was measured with --size or the like is not what the gallery shows, of the model as its name has it.
    here = repr(model_gallery.model.preparation)
    return {
        "id": identity,
        "name": words.MODELS.get(model, model),
        "trained": all(evaluation.trained for evaluation in evaluations),
        "rows": rows,
        "otherwise": [one.path.name for one in evaluations if one.preparation not in (None, here)],
        "unknown": model_gallery.unknown,
        "device": str(model_gallery.device),
        "tables": [_table(evaluation) for evaluation in evaluations],
        "plots": drawn,
        "chosen": plots.chosen(drawn["metrics"]) if drawn["metrics"] else None,
    }


def _table(evaluation: Evaluation) -> dict[str, Any]:
    lines = {(line.metric, line.method): line for line in evaluation.table}
    metrics = evaluation.metrics
    better = {line.metric: line.better for line in evaluation.table}
    # A method that a metric doesn't apply to has none.
    images = {name: max(lines[name, method].images for method in evaluation.methods) for name in metrics}
    return {
        "suite": evaluation.suite,
        "question": words.SUITES.get(evaluation.suite, ""),
        "reference": words.NAMES.get(evaluation.reference, evaluation.reference),
        "failed": any(line.errors for line in evaluation.table),
        "rows_file": evaluation.path.with_suffix(".parquet").name,
        "ranks": _ranks(evaluation),
        "metrics": [{"words": words.metric(name), "better": better[name], "images": images[name]} for name in metrics],
        "methods": [
            {
                "name": name,
                "reference": name == evaluation.reference,
                "layers": " and ".join(layers),
                "cells": [cell(lines[metric, name]) for metric in metrics],
            }
            for name, layers in evaluation.methods.items()
        ],
    }


def _ranks(evaluation: Evaluation) -> dict[str, Any] | None:
    """Mean ranks in print, the best first; None where there is nothing to rank."""
    try:
        found = rank(evaluation.table)
    except ValueError:
        return None
    return {
        "mean": {name: _number(value, 1) for name, value in found.mean.items()},
        "concordance": None if isnan(found.concordance) else _number(found.concordance, 2),
        "left_out": [words.metric(name).name for name in found.left_out],
    }


def _latency(record: Latency) -> dict[str, Any]:
    rows = []
    for name, timing in record.timings.items():
        candidate = words.TIMED.get(name, words.Timed(name))
        memory = "" if timing.memory_mib is None else f"{timing.memory_mib:.0f}"
        missing = "its maps failed their check" if timing.failed else "not measured"
        rows.append(
            {
                "name": candidate.name,
                "missing": missing if timing.milliseconds is None else "",
                "numbers": (_spread(timing.milliseconds, 0), _spread(timing.over_forward, 2), (memory, "")),
            }
        )
    return {"record": record, "network": words.network(record.network), "rows": rows}


def _spread(spread: Spread | None, decimals: int) -> tuple[str, str]:
    if spread is None:
        return "", ""
    median, low, high = (_number(value, decimals) for value in spread)
    return median, f"[{low}, {high}]"


def _render(title: str, results: Results, models: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("cfcam_gpu.report", ""),
    )
    # Methods keep their order.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.globals["label"] = lambda name: words.NAMES.get(name, name)
    room = files(__package__)
    return environment.get_template("template.html").render(
        title=title,
        style=Markup(room.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(room.joinpath("page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()) if models else "",
        models=models,
        scale=gallery.scale(),
        data={model["id"]: model["plots"] for model in models},
        latencies=[_latency(record) for record in results.latencies],
        evaluations=results.evaluations,
        version=__version__,
    )
