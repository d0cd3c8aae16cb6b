"""A model's own cost, measured: what ``cfcam-gpu bench latency`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..core.config import Config
from ..explain.attempts import OUT_OF_MEMORY, check, reason
from ..hooks.layers import find as find_layer
from ..hooks.target_layer import TargetLayer
from ..named_models import loading
from ..named_models.loading import LoadedModel
from ..named_models.options import Settings
from ..results import saving
from . import candidates, gate, machine, memory, stages
from .candidates import FORWARD, OURS, OURS_OF_ONE_LEVEL, Candidates, explainer
from .pictures import pictures
from .timing import Call, Clock, Times, cuda_clock, first_calls, host_clock, ratios, times_in_turn, with_tails

#: How torch's allocator of the host begins to say that there is no more memory, in an error without a type of its own.
_HOST_IS_FULL = ("[enforce fail at alloc_cpu", "DefaultCPUAllocator")
#: Where the bare forward's memory is not known.
_NONE: Mapping[str, Any] = MappingProxyType({"median": 0.0})
#: New explainers whose first call is timed.
FIRST = 5
#: The largest batch size.
MOST = 65536

Told = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Parameters
    ----------
    settings : Settings
        The model, and layers, engine and device of its explanation by CF-CAM.
    out : Path
        The folder for the results.
    batch_sizes : tuple of int
    methods : tuple of str
        Keys of :data:`cfcam_gpu.methods.METHODS` to measure beside CF-CAM.
    rounds : int
    seconds : float
        A candidate that would take more than its share of them at one batch size is in the first rounds only, in three
        at least.
    overwrite : bool
    """

    settings: Settings
    out: Path
    batch_sizes: tuple[int, ...] = (1, 8)
    methods: tuple[str, ...] = ()
    rounds: int = 30
    seconds: float = 60.0
    overwrite: bool = False


def outputs(job: Job) -> tuple[Path, Path]:
    """Where a job's record and its plot go."""
    stem = saving.file_names([f"latency-{job.settings.model}"])[0]
    return job.out / f"{stem}.json", job.out / f"{stem}.png"


def check_job(job: Job) -> Run:
    """Find whatever is wrong with a job before any of it is done.

    Raises
    ------
    FileExistsError, OSError
        If results are there already.
    ImportError, TypeError, ValueError, RuntimeError
        If batch sizes, methods, model, weights, layer, engine or device can't be what is meant; the message says why.
    """
    if not job.batch_sizes or not all(1 <= size <= MOST for size in job.batch_sizes):
        got = ", ".join(map(str, job.batch_sizes)) or "none"
        raise ValueError(f"batch_size: expected whole numbers from 1 to {MOST}; got {got}")
    if job.rounds < 1:
        raise ValueError(f"rounds: expected a whole number of at least 1; got {job.rounds}")
    if not job.seconds > 0:
        raise ValueError(f"seconds: expected more than 0; got {job.seconds}")
    methods = candidates.known(job.methods)
    saving.check_free(outputs(job), overwrite=job.overwrite)
    loaded = loading.load_model(job.settings)
    job.out.mkdir(parents=True, exist_ok=True)
    config, libragrad = _of_default(loaded)
    found = candidates.find(loaded.layers, methods, loaded.engine, config, libragrad=libragrad)
    return Run(job, loaded, found)


@dataclass(frozen=True)
class Run:
    """A job that was found sound, ready to go.

    ``notes`` has, once it is done, what could not be measured, and why.
    """

    job: Job
    loaded: LoadedModel
    candidates: Candidates
    notes: list[str] = field(default_factory=list, init=False)

    @property
    def layers(self) -> tuple[TargetLayer, ...]:
        """Of CF-CAM, the finest first."""
        return self.loaded.layers

    @property
    def _clock(self) -> Clock:
        return host_clock if self.loaded.device.type == "cpu" else cuda_clock

    def execute(self, tell: Told) -> dict[str, Any]:
        """Measure everything.

        Parameters
        ----------
        tell : callable
            Gets a line for people now and then: what is done next, what disturbs it, and what can't be done.

        Returns
        -------
        dict
            The part of the record that was measured: ``batches``, ``first_call`` and ``images``.

        Raises
        ------
        RuntimeError
            If the device is out of order.
        """
        self._tell_of_others(tell)
        for name, why in self.candidates.left_out.items():
            self._note(f"{name}: not measured: {why}", tell)
        one, kind = pictures(1, self.loaded.model.preparation)
        calls = self._made(one.to(self.loaded.device), tell)
        batches: list[dict[str, Any]] = []
        for size in sorted(set(self.job.batch_sizes)):
            tell(f"batch {size}: {', '.join(calls)}")
            try:
                batches.append(self._batch(calls, size, tell))
            except Exception as error:  # the bare forward's own, of a model that takes no such batch
                check(self.loaded.device)
                self._note(f"batch {size}, and what is larger: not measured: {_why(error)}", tell)
                break
        calls.clear()
        self._add_memory(batches, tell)
        return {"images": kind, "batches": batches, "first_call": self._first_call(one), "notes": self.notes}

    def _note(self, note: str, tell: Told) -> None:
        self.notes.append(note)
        tell(note)

    def _tell_of_others(self, tell: Told) -> None:
        taken = machine.taken_now()
        if taken is not None and taken > machine.DISTURBED:
            self._note(f"WARNING: other processes take {taken:.0%} of the cores; measure on an idle machine", tell)
        used = machine.gpu_taken() if self.loaded.device.type == "cuda" else None
        if used:
            self._note(f"WARNING: the GPU is used for {used:.0%} of the time already; measure on an idle one", tell)

    def _made(self, image: torch.Tensor, tell: Told) -> dict[str, Call]:
        """The calls of the candidates that explain one image."""
        calls = {}
        for name, make in self.candidates.makers.items():
            try:
                call = make(self.loaded.model.module)
                call(image)
            except Exception as error:  # a peer, or the import of one, may raise anything
                self._fails(name, error, tell)
            else:
                calls[name] = call
        return calls

    def _fails(self, name: str, error: Exception, tell: Told, where: str = "") -> None:
        check(self.loaded.device)  # raises where the device itself is out of order
        self._note(f"{name}: not measured{where}: {_why(error)}", tell)

    def _batch(self, calls: Mapping[str, Call], size: int, tell: Told) -> dict[str, Any]:
        """All figures at one batch size; raises where the bare forward does not fit in memory."""
        images = pictures(size, self.loaded.model.preparation)[0].to(self.loaded.device)
        where = f" at batch {size}"
        calls[FORWARD](images)
        there = {}
        for name, call in calls.items():
            try:
                call(images)
            except Exception as error:  # as above
                self._fails(name, error, tell, where)
            else:
                there[name] = call
        gates = {name: self._checks(name, images) for name in (OURS, OURS_OF_ONE_LEVEL) if name in there}
        passed = {name: call for name, call in there.items() if all(one.passed for one in gates.get(name, []))}
        before = machine.cores_time()
        times = self._times(passed, images, tell, where)
        taken = machine.taken_by_others(before, machine.cores_time())
        if taken is not None and taken > machine.DISTURBED:
            self._note(f"WARNING: other processes took {taken:.0%} of the cores{where}; measure again", tell)
        latency = {name: with_tails(values) for name, values in times.clock.items()}
        figures = {"latency_ms": latency}
        if images.device.type == "cpu":
            figures["processor_ms"] = {name: with_tails(values) for name, values in times.processor.items()}
        return {
            "batch": size,
            **figures,
            "images_per_second": {name: round(1e3 * size / one["median"], 2) for name, one in latency.items()},
            "ratios": {figure: ratios(found, [FORWARD]) for figure, found in figures.items()},
            "gates": {name: [one.as_json() for one in checks] for name, checks in gates.items()},
            "stages": self._all_stages([name for name in gates if name in passed], images, where, tell),
            "taken_by_others": taken,
        }

    def _times(self, calls: dict[str, Call], images: torch.Tensor, tell: Told, where: str) -> Times:
        """Of the calls that go on working: one that fails is told and left out of `calls`, and all begin again."""
        guarded = {name: partial(_guarded, name, call) for name, call in calls.items()}
        while True:
            share = 1e3 * self.job.seconds / len(guarded)
            try:
                return times_in_turn(guarded, images, self.job.rounds, clock=self._clock, budget_ms=share)
            except _FailedError as failed:
                if failed.name == FORWARD:
                    raise failed.error from None
                self._fails(failed.name, failed.error, tell, where)
                del guarded[failed.name], calls[failed.name]

    def _checks(self, name: str, images: torch.Tensor) -> list[gate.Check]:
        layers, config, libragrad = self._levels(name)
        return gate.check(self.loaded.model.module, layers, config, self.loaded.engine, images, libragrad=libragrad)

    def _all_stages(self, names: list[str], images: torch.Tensor, where: str, tell: Told) -> dict[str, Any]:
        found = {}
        for name in names:
            try:
                found[name] = self._stages(name, images)
            except Exception as error:  # the model's own
                self._fails(f"stages of {name}", error, tell, where)
        return found

    def _stages(self, name: str, images: torch.Tensor) -> dict[str, Any]:
        layers, config, libragrad = self._levels(name)
        works = stages.stages(self.loaded.model.module, layers, images, self.loaded.engine, config, libragrad=libragrad)
        meter = stages.host_meter() if images.device.type == "cpu" else stages.cuda_meter()
        return stages.measure(works, meter, warmup=1, repeats=max(3, self.job.rounds // 3))

    def _levels(self, name: str) -> tuple[tuple[TargetLayer, ...], Config, bool]:
        """Layers, configuration and gradients of CF-CAM as a candidate of that name has them."""
        if name == OURS:
            return self.loaded.layers, *_of_default(self.loaded)
        return self.loaded.layers[-1:], Config(), False

    def _first_call(self, image: torch.Tensor) -> dict[str, Any]:
        """Of an explainer that was just made, with the layers as they were asked for."""
        make = partial(explainer, self.job.settings.layers or None, OURS, self.loaded.engine, self.loaded.model.module)
        image = image.to(self.loaded.device)
        return first_calls(make, image, FIRST, self._clock)

    def _add_memory(self, batches: list[dict[str, Any]], tell: Told) -> None:
        """Peaks in MiB, and their ratios, into what was measured of each batch size."""
        names = list(dict.fromkeys(name for one in batches for name in one["latency_ms"]))
        found: list[dict[str, Any]] = [{} for _ in batches]
        for name in names:
            sizes = [one["batch"] for one in batches if name in one["latency_ms"]]
            tell(f"peak memory of {name}")
            try:
                peaks = self._peaks(name, sizes)
            except Exception as error:  # a process that was killed, a peer that can't be imported there
                self._fails(f"peak memory of {name}", error, tell)
                continue
            by_size = dict(zip(sizes, peaks))
            for one, into in zip(batches, found):
                peak = by_size.get(one["batch"])
                if peak is not None:
                    into[name] = {"median": round(peak, 2), "rounds": [round(peak, 4)]}
        for one, peaks_of in zip(batches, found):
            one["memory_mib"] = peaks_of
            one["ratios"]["memory_mib"] = ratios(peaks_of, [FORWARD]) if peaks_of.get(FORWARD, _NONE)["median"] else {}

    def _peaks(self, name: str, sizes: list[int]) -> list[float | None]:
        settings, device = self.job.settings, self.loaded.device
        layers = tuple(layer.name for layer in self.loaded.layers)
        if device.type == "cpu":
            of_default = _of_default(self.loaded)
            methods, engine = self.job.methods, self.loaded.engine
            return memory.in_child(peaks, settings, layers, of_default, methods, engine, name, sizes)
        call = self.candidates.makers[name](self.loaded.model.module)
        images, _ = pictures(max(sizes), self.loaded.model.preparation)
        call(images[:1].to(device))
        found: list[float | None] = []
        for size in sizes:
            batch = images[:size].to(device)
            found.append(memory.cuda_peak(partial(call, batch)) / 2**20)
        return found


def _of_default(loaded: LoadedModel) -> tuple[Config, bool]:
    """CF-CAM's configuration, and whether its gradients are LibraGrad's, as its explainer has them."""
    config = loaded.explain.config
    assert config is not None  # a blank image was explained
    return config, bool(loaded.explain.libragrad)


def peaks(
    settings: Settings,
    layers: tuple[str, ...],
    of_default: tuple[Config, bool],
    methods: tuple[str, ...],
    engine: str,
    name: str,
    sizes: list[int],
) -> list[float | None]:
    """MiB that a candidate takes at each batch size, on the host: for a process of its own.

    Parameters
    ----------
    settings : Settings
        The model and its weights.
    layers : tuple of str
        Of CF-CAM, the finest first.
    of_default : (Config, bool)
        Its configuration, and whether its gradients are LibraGrad's.
    methods : tuple of str
    engine : str
    name : str
        Of the candidate.
    sizes : list of int
    """
    model = loading.model_of(settings, loading.names_given(settings))
    known = tuple(find_layer(model.module, layer) for layer in layers)
    found = candidates.find(known, methods, engine, of_default[0], libragrad=of_default[1])
    call = found.makers[name](model.module)
    images, _ = pictures(max(sizes), model.preparation)
    return [memory.host_peak(call, images[:size]) for size in sizes]


class _FailedError(Exception):
    """Which call failed while times were taken."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(name)
        self.name = name
        self.error = error


def _guarded(name: str, call: Call, images: torch.Tensor) -> object:
    try:
        return call(images)
    except Exception as error:  # as in _made
        raise _FailedError(name, error) from None


def _why(error: Exception) -> str:
    """In one line."""
    if is_out_of_memory(error):
        return "out of memory"
    return next(iter(reason(error).strip().splitlines()), type(error).__name__)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that the device's memory, or the host's, does not suffice."""
    return isinstance(error, OUT_OF_MEMORY) or any(sign in str(error) for sign in _HOST_IS_FULL)
