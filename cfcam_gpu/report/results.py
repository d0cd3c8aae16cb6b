"""Files of results: found, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..evaluation.table import Summary
from ..metrics import Interval
from ..named_models.asked_input import AskedInput

EXPECTED = "expected a summary that 'cfcam-gpu bench' wrote (SUITE-MODEL.json) or a latency record (*-latency.json)"


@dataclass(frozen=True)
class Evaluation:
    """A suite on a model: the summary that ``cfcam-gpu bench`` writes.

    ``preparation`` is how photographs became the model's input, None in files of older releases, where it is the
    model's own; ``asked`` is what was asked for of it, and ``class_names`` those that were given.
    ``methods`` has the layers of each; ``curves`` for a metric and a method the mean score at each of
    ``fractions``.
    """

    path: Path
    suite: str
    model: str
    preparation: str | None
    asked: AskedInput
    class_names: tuple[str, ...] | None
    weights: Path | None
    trained: bool
    device: str
    version: str
    seed: int
    reference: str
    methods: Mapping[str, Sequence[str]]
    table: Sequence[Summary]
    fractions: Sequence[float]
    curves: Mapping[str, Mapping[str, Sequence[float] | None]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those measured, in their order."""
        return tuple(dict.fromkeys(line.metric for line in self.table))


class Spread(NamedTuple):
    """Median and quartiles of the rounds."""

    median: float
    low: float
    high: float


class Timing(NamedTuple):
    """A candidate in a latency record. None where it was not measured: it failed its check, or there was no peer."""

    milliseconds: Spread | None
    over_forward: Spread | None
    memory_mib: float | None
    failed: bool


@dataclass(frozen=True)
class Latency:
    """A network in a latency record: what each candidate took of one machine."""

    path: Path
    network: str
    layer: str
    machine: str
    date: str
    version: str
    batch: int
    timings: Mapping[str, Timing]


@dataclass(frozen=True)
class Results:
    """All that was read."""

    evaluations: tuple[Evaluation, ...]
    latencies: tuple[Latency, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Models that were evaluated, in the files' order."""
        return tuple(dict.fromkeys(evaluation.model for evaluation in self.evaluations))

    def of(self, model: str) -> tuple[Evaluation, ...]:
        """The evaluations of a model."""
        return tuple(evaluation for evaluation in self.evaluations if evaluation.model == model)

    def weights_of(self, model: str) -> Path | None:
        """The file of weights that a model was evaluated with.

        Raises
        ------
        ValueError
            If evaluations of it differ.
        """
        first, *others = self.of(model)
        for other in others:
            if other.weights != first.weights:
                raise ValueError(
                    f"results: {first.path} and {other.path} are of one model, {model}, with other weights "
                    f"({first.weights or 'its own'} and {other.weights or 'its own'}); report them apart"
                )
        return first.weights


def read(paths: Sequence[Path]) -> Results:
    """Read files of results.

    Parameters
    ----------
    paths : sequence of Path
        Files, and folders of them. A folder is searched with its sub-folders, in alphabetical order; JSON files of
        other kinds in it, and what is hidden, are passed over.

    Raises
    ------
    FileNotFoundError
        If one of `paths` does not exist.
    OSError
        If one can't be read.
    ValueError
        If a file is not what is expected, a folder has no results, or two files have a metric of one model.
    """
    evaluations: list[Evaluation] = []
    latencies: list[Latency] = []
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        with_results = [file for file in _search(path) if _kind(_load(file))] if path.is_dir() else [path]
        if not with_results:
            raise ValueError(f"{path}: no results in this folder; {EXPECTED}")
        for file in with_results:
            files.setdefault(file.resolve(), file)
    for file in files.values():
        content = _load(file)
        kind = _kind(content)
        if kind is None:
            _refuse(file, "it is another kind of JSON")
        try:
            if kind == "evaluation":
                evaluations.append(_evaluation(file, content))
            else:
                latencies.extend(_latencies(file, content))
        except KeyError as error:
            _refuse(file, f"{error} is not there")
        except (AttributeError, TypeError, ValueError) as error:
            _refuse(file, str(error))
    _check_distinct(evaluations)
    return Results(tuple(evaluations), tuple(latencies))


def _refuse(file: Path, why: str) -> NoReturn:
    raise ValueError(f"{file}: {EXPECTED}; {why}") from None


def _search(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*.json") if path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes(), parse_constant=float)
    except ValueError as error:
        _refuse(file, f"it is no JSON ({error})")


def _kind(content: Any) -> str | None:
    if isinstance(content, dict) and content.get("benchmark") == "latency":
        return "latency"
    return "evaluation" if isinstance(content, dict) and {"suite", "model", "table"} <= set(content) else None


def _check_distinct(evaluations: Sequence[Evaluation]) -> None:
    paths: dict[tuple[str, str], Path] = {}
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            path = paths.setdefault((evaluation.model, metric), evaluation.path)
            if path != evaluation.path:
                raise ValueError(
                    f"{evaluation.path} and {path} both have {metric} of {evaluation.model}; give one of them"
                )


def _evaluation(path: Path, content: Mapping[str, Any]) -> Evaluation:
    methods = {name: tuple(map(_text, layers)) for name, layers in content["methods"].items()}
    table = tuple(_summary(line) for line in content["table"])
    if not methods or not table:
        raise ValueError("its methods or its table are empty")
    lines = [(line.metric, line.method) for line in table]
    expected = {(line.metric, name) for line in table for name in methods}
    if len(lines) != len(expected) or set(lines) != expected:
        raise ValueError("its table has not one line for each metric and method")
    fractions = tuple(map(_number, content.get("fractions", ())))
    curves = {
        metric: {name: None if ys is None else tuple(map(_number, ys)) for name, ys in by_method.items()}
        for metric, by_method in content.get("curves", {}).items()
    }
    for metric, by_method in curves.items():
        for name, ys in by_method.items():
            if name not in methods or (ys is not None and len(ys) != len(fractions)):
                raise ValueError(f"the curve of {name!r} in {metric!r} fits neither methods nor fractions")
    return Evaluation(
        path=path,
        suite=_text(content["suite"]),
        model=_text(content["model"]),
        preparation=None if "input" not in content else _text(content["input"]["preparation"]),
        asked=_asked(content.get("input", {}).get("asked", {})),
        class_names=tuple(map(_text, content.get("input", {}).get("class_names") or ())) or None,
        weights=None if content.get("weights") is None else Path(_text(content["weights"])),
        trained=bool(content["trained"]),
        device=_text(content["device"]),
        version=_text(content["versions"]["cfcam_gpu"]),
        seed=int(_number(content["seed"])),
        reference=_text(content["reference"]),
        methods=methods,
        table=table,
        fractions=fractions,
        curves=curves,
    )


def _asked(said: Mapping[str, Any]) -> AskedInput:
    """What was asked for of a model's input, from lists of numbers; files of older releases do not have it."""
    size, mean, std = (said.get(name) and tuple(map(_number, said[name])) for name in ("size", "mean", "std"))
    return AskedInput(
        size=size and (int(size[0]), int(size[1])), channels=said.get("channels"), mean=mean or None, std=std or None
    )


def _summary(line: Mapping[str, Any]) -> Summary:
    if line["better"] not in ("high", "low"):
        raise ValueError(f"better: expected high or low; got {line['better']!r}")
    return Summary(
        _text(line["metric"]),
        line["better"],
        _text(line["method"]),
        int(_number(line["images"])),
        int(_number(line["errors"])),
        _interval(line["mean"]),
        _interval(line["difference"]),
    )


def _interval(numbers: Mapping[str, Any] | None) -> Interval | None:
    return None if numbers is None else Interval(*(_number(numbers[key]) for key in Interval._fields))


def _latencies(path: Path, content: Mapping[str, Any]) -> list[Latency]:
    machine = content["machine"]
    machine_text = f"{_text(machine['cpu'])}, {int(_number(machine['cores']))} cores"
    batch = int(_number(content["settings"]["batch"]))
    version = _text(content["versions"]["cfcam_gpu"])
    return [
        Latency(
            path, name, _text(network["layer"]), machine_text, _text(content["date"]), version, batch, _timings(network)
        )
        for name, network in content["networks"].items()
    ]


def _timings(network: Mapping[str, Any]) -> dict[str, Timing]:
    ratios = network["ratios"]["latency_ms"]
    return {
        name: Timing(
            _spread(network["latency_ms"].get(name)),
            _spread(ratios.get(f"{name} / forward")),
            _median(network["memory_mib"].get(name)),
            not all(check["passed"] for check in network["gates"].get(name, [])),
        )
        for name in map(_text, network["candidates"])
    }


def _spread(numbers: Mapping[str, Any] | None) -> Spread | None:
    if numbers is None:
        return None
    low, high = numbers["quartiles"]
    return Spread(_number(numbers["median"]), _number(low), _number(high))


def _median(numbers: Mapping[str, Any] | None) -> float | None:
    return None if numbers is None else _number(numbers["median"])


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number; got {value!r:.80}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text; got {value!r:.80}")
    return value
