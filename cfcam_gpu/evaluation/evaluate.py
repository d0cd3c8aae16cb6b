"""A suite run over a folder: checked first, then measured, and what fails is written down."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import torch

from ..environment import describe
from ..explain.attempts import attempt, reason, together_or_alone
from ..metrics import Curve
from ..named_models import loading
from ..named_models.models import Model
from ..named_models.options import Settings
from ..results import durable, saving
from ..targets.outputs import logits_of
from . import candidates, data
from .candidates import Candidate
from .data import Grid, Sample
from .measures import ON_REQUEST
from .suites import CONSTANTS, SUITES, Case, Measure, Subject
from .table import Row, Summary, mean_curves, summarise, write_rows

#: What the extra "bench" brings.
PACKAGES = ("pyarrow", "torchmetrics")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Parameters
    ----------
    suite : str
        A key of :data:`cfcam_gpu.evaluation.suites.SUITES`.
    data : Path
        See :func:`cfcam_gpu.evaluation.data.read`.
    out : Path
        The folder for the results.
    model : str
        See :func:`cfcam_gpu.photographs.load`.
    weights : Path or None
        A state dict for the model.
    size, channels, mean, std, classes
        Its input and the names of its classes, as :class:`cfcam_gpu.named_models.options.Settings` has them.
    methods : sequence of str
        Names of :func:`cfcam_gpu.evaluation.candidates.find`; none is every one that takes one forward and backward.
    reference : str
        The method that others are compared to; it is measured in any case.
    metrics : sequence of str
        Keys of the suite; none is what the suite does by default and the folder has images for.
    limit : int or None
        See :meth:`cfcam_gpu.evaluation.data.Album.limited`.
    seed : int
    batch_size : int
        Images that are explained in one forward.
    step : int
        Pixels changed between two forwards of insertion and deletion.
    overwrite : bool
    """

    suite: str
    data: Path
    out: Path
    model: str = "lite0"
    weights: Path | None = None
    size: tuple[int, ...] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: Path | None = None
    methods: Sequence[str] = ()
    reference: str = "gradcam"
    metrics: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0
    batch_size: int = 8
    step: int = 224
    overwrite: bool = False


@dataclass(frozen=True)
class Run:
    """A job that was found sound, ready to go.

    ``passed_over`` counts what class folders have besides, ``class_names`` are those that were given. ``rows`` has what
    is measured: all of it, or what was before a fault.
    """

    job: Job
    model: Model
    device: torch.device
    candidates: tuple[Candidate, ...]
    plan: tuple[tuple[Measure, tuple[Subject, ...]], ...]
    passed_over: Counter[str]
    class_names: tuple[str, ...] | None = None
    rows: list[Row] = field(default_factory=list, init=False)

    @property
    def steps(self) -> int:
        """How many measurements there are."""
        return sum(len(subjects) for c in self.candidates for measure, subjects in self.plan if _fits(measure, c))

    def execute(self, done: Callable[[int], None]) -> None:
        """Measure everything into `rows`: one for each candidate, image and metric, whether it succeeded or not.

        Parameters
        ----------
        done : callable
            Gets the number of measurements that were finished since its last call.

        Raises
        ------
        RuntimeError
            If the device is out of order.
        """
        with torch.no_grad():
            for batch in self._batches():
                samples = [self._load(subject) for subject, _ in batch]
                for candidate in self.candidates:
                    for row in self._measure(candidate, batch, samples):
                        self.rows.extend(row)
                        done(1)

    def _batches(self) -> Iterator[list[tuple[Subject, list[Measure]]]]:
        """Images with what is measured on them; those in a batch have the same number of classes."""
        wanted: dict[str, tuple[Subject, list[Measure]]] = {}
        for measure, subjects in self.plan:
            for subject in subjects:
                wanted.setdefault(subject.name, (subject, []))[1].append(measure)
        for _, group in groupby(wanted.values(), key=lambda item: item[0].n if isinstance(item[0], Grid) else 1):
            alike = list(group)
            yield from (alike[i : i + self.job.batch_size] for i in range(0, len(alike), self.job.batch_size))

    def _load(self, subject: Subject) -> Sample | str:
        sample = attempt(lambda: subject.load(self.model.preparation), self.device)
        if isinstance(sample, Exception):
            return reason(sample)
        mask = None if sample.mask is None else sample.mask.to(self.device)
        return Sample(sample.image.to(self.device), sample.classes.to(self.device), mask, sample.size)

    def _measure(
        self, candidate: Candidate, batch: list[tuple[Subject, list[Measure]]], samples: list[Sample | str]
    ) -> Iterator[list[Row]]:
        wanted = [[measure for measure in measures if _fits(measure, candidate)] for _, measures in batch]
        asks = any(measure.needs_maps for measures in wanted for measure in measures)
        maps: Sequence[torch.Tensor | str | None]
        maps = self._maps(candidate, samples) if asks else [None] * len(samples)
        for (subject, _), sample, own, measures in zip(batch, samples, maps, wanted):
            for measure in measures:
                values: Sequence[float | str | Curve]
                if isinstance(sample, str):
                    values = [sample] * len(measure.metrics)
                elif isinstance(own, str):
                    values = [own] * len(measure.metrics)
                else:
                    case = Case(self.model.module, candidate, sample, own, self.job.seed, subject.seed, self.job.step)
                    values = self._values(measure, case)
                yield [Row.of(candidate.name, subject.name, metric, v) for metric, v in zip(measure.metrics, values)]

    def _maps(self, candidate: Candidate, samples: list[Sample | str]) -> list[torch.Tensor | str]:
        """Maps (T, H, W) of each sample, or why there are none."""
        good = [sample for sample in samples if isinstance(sample, Sample)]
        maps: list[torch.Tensor | str] = []
        if good:
            for some, found in together_or_alone(lambda some: self._explain(candidate, some), good, self.device):
                maps += [reason(found)] * len(some) if isinstance(found, Exception) else found
        rest = iter(maps)
        return [next(rest) if isinstance(sample, Sample) else sample for sample in samples]

    def _explain(self, candidate: Candidate, samples: Sequence[Sample]) -> torch.Tensor:
        images, classes = (torch.stack(values) for values in list(zip(*samples))[:2])
        return candidate.maps(self.model.module, images, classes, samples[0].size)

    def _values(self, measure: Measure, case: Case) -> Sequence[float | str | Curve]:
        found = attempt(lambda: [_checked(found) for found in measure.run(case)], self.device)
        return [reason(found)] * len(measure.metrics) if isinstance(found, Exception) else found


def _checked(found: torch.Tensor | Curve) -> float | str | Curve:
    """What a measure found, on the host; a message where it is not finite."""
    value = float(found.auc if isinstance(found, Curve) else found)
    if not math.isfinite(value):
        return f"the value is {value}"
    return Curve(*(part.cpu() for part in found)) if isinstance(found, Curve) else value


def write(run: Run, rows: Sequence[Row]) -> list[Summary]:
    """Write what :meth:`Run.execute` found: rows as Parquet; summaries, mean curves and how they came about as JSON.

    Raises
    ------
    OSError
        If a file can't be written.
    """
    job, names = run.job, [candidate.name for candidate in run.candidates]
    measured = {name: better for measure, _ in run.plan for name, better in measure.metrics.items()}
    summaries = summarise(rows, measured, names, job.reference, seed=job.seed)
    about = {
        "suite": job.suite,
        "model": job.model,
        "weights": None if job.weights is None else str(job.weights),
        "trained": run.model.trained,
        "device": str(run.device),
        "versions": describe()["versions"] | {name: metadata.version(name) for name in PACKAGES},
        "seed": job.seed,
        "input": {
            "preparation": repr(run.model.preparation),
            "classes": None if job.classes is None else str(job.classes),
            # What makes the same model again: models of libraries are built with so many classes.
            "asked": {name: getattr(job, name) for name in ("size", "channels", "mean", "std")},
            "class_names": run.class_names,
        },
        "options": {"limit": job.limit, "batch_size": job.batch_size, "step": job.step, **CONSTANTS},
        "methods": {candidate.name: list(candidate.layers) for candidate in run.candidates},
        "reference": job.reference,
        "table": [summary.as_json() for summary in summaries],
        **mean_curves(rows),
    }
    parquet, summary_file = outputs(job)
    write_rows(parquet, rows)
    with durable.replacing(summary_file) as file:
        file.write(json.dumps(about, indent=1, allow_nan=False).encode() + b"\n")
    return summaries


def outputs(job: Job) -> tuple[Path, Path]:
    """Where a job's rows and summary go."""
    stem = saving.file_names([f"{job.suite}-{job.model}"])[0]
    return job.out / f"{stem}.parquet", job.out / f"{stem}.json"


def check(job: Job) -> Run:
    """Find whatever is wrong with a job before any of it is done.

    Raises
    ------
    FileNotFoundError, FileExistsError, OSError
        If data are missing, or results are there already.
    ImportError, TypeError, ValueError, RuntimeError
        If a package is not installed, or model, methods, metrics or data can't be what is meant; the message says why.
    """
    suite = SUITES.get(job.suite)
    if suite is None:
        raise ValueError(f"suite: expected one of {', '.join(SUITES)}; got {job.suite!r}")
    for name, number, least in (("limit", job.limit, 1), ("batch_size", job.batch_size, 1), ("seed", job.seed, 0)):
        if number is not None and number < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}; got {number}")
    _known("metrics", job.metrics, suite)
    album = data.read(job.data).limited(job.limit)
    _plan(job, suite, album)
    saving.check_free(outputs(job), overwrite=job.overwrite)
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed; pip install 'cfcam-gpu[bench]'")

    device = loading.device_of("auto")
    asked = {name: getattr(job, name) for name in ("model", "weights", "size", "channels", "mean", "std", "classes")}
    settings = Settings(**asked)
    named = loading.names_given(settings)
    model = loading.model_of(settings, named)
    model.module.to(device)
    wants = model.preparation
    if not 1 <= job.step <= wants.height * wants.width:
        raise ValueError(f"step: expected a number of pixels from 1 to {wants.height * wants.width}; got {job.step}")
    blank = wants.normalize(wants.blank(1).to(device))
    there = candidates.find(model.module, blank)
    names = job.methods or [name for name, candidate in there.items() if candidate.render is not None]
    for argument, wanted in (("methods", names), ("reference", [job.reference])):
        _known(argument, wanted, there, lambda name: candidates.missing(name, there, model.module, blank))
    album = _with_classes(model, blank, album, named, job.classes)
    plan = _plan(job, suite, album)
    job.out.mkdir(parents=True, exist_ok=True)
    chosen = tuple(there[name] for name in dict.fromkeys([job.reference, *names]))
    return Run(job, model, device, chosen, plan, album.passed_over, named)


def _plan(job: Job, suite: Mapping[str, Measure], album: data.Album) -> tuple[tuple[Measure, tuple[Subject, ...]], ...]:
    found = {name: tuple(measure.subjects(album)) for name, measure in suite.items()}
    missing = [name for name in job.metrics if not found[name]]
    chosen = job.metrics or [name for name in suite if name not in ON_REQUEST and found[name]]
    if missing or not chosen:
        what = ", ".join(missing) or job.suite
        raise ValueError(f"data: {job.data} has no image for {what}: masks and mosaics come from a manifest")
    return tuple((suite[name], found[name]) for name in dict.fromkeys(chosen))


def _known(
    argument: str, names: Sequence[str], known: Iterable[str], why: Callable[[str], str | None] = lambda name: None
) -> None:
    """Refuse a name that is not known, with the reason where `why` has one."""
    for name in names:
        if name not in set(known):
            reason_of = why(name)
            because = "" if reason_of is None else f": {reason_of}"
            raise ValueError(f"{argument}: expected one of {', '.join(known)}; got {name!r}{because}")


def _with_classes(
    model: Model, blank: torch.Tensor, album: data.Album, named: tuple[str, ...] | None, path: Path | None
) -> data.Album:
    """The album with the model's classes, all of which it has."""
    with torch.no_grad():
        classes = logits_of(model.module(blank)).shape[1]
    album = album.with_classes_of(loading.names_for(model, classes, named, path).names)
    for photograph in album.photographs:
        if photograph.class_index >= classes:
            raise ValueError(
                f"data: {photograph.name} is of class {photograph.class_index}; {model.name} has {classes} classes"
            )
    return album


def _fits(measure: Measure, candidate: Candidate) -> bool:
    return candidate.render is not None or not measure.needs_render
