"""How long each stage of an explanation takes, and its peak memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import engines, targets
from ..core.config import Config
from ..engines import execution
from ..explain.cfcam import CFCAM
from ..explain.plan import Plan
from ..hooks import layers
from ..hooks.target_layer import TargetLayer
from .memory import cuda_peak
from .timing import Clock, cuda_clock, host_clock, processor_clock

Work = Callable[[], object]


class Meter(NamedTuple):
    """How work is measured: its time in milliseconds, and the memory in bytes that it takes beyond what was taken.

    ``peak_bytes`` is None where memory is not measured.
    """

    milliseconds: Callable[[Work], float]
    peak_bytes: Callable[[Work], int] | None = None


def cuda_meter() -> Meter:
    """:func:`cuda_clock` and :func:`cuda_peak`, of the current device."""
    return Meter(_of_work(cuda_clock), cuda_peak)


def host_meter() -> Meter:
    """The host's clock."""
    return Meter(_of_work(host_clock))


def processor_meter() -> Meter:
    """The processors' time, all threads of this process together."""
    return Meter(_of_work(processor_clock))


def _of_work(clock: Clock) -> Callable[[Work], float]:
    nothing = torch.empty(0)
    return lambda work: clock(lambda images: work(), nothing)


def stages(
    model: nn.Module,
    layer: str | tuple[TargetLayer, ...],
    images: torch.Tensor,
    engine: str | None,
    config: Config | None = None,
    *,
    libragrad: bool = False,
) -> dict[str, Work]:
    """The stages by name, each ready to run by itself on what the one before it gave.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str, or tuple of TargetLayer
        Named, it is that of a configuration of one level; the layers of two are chosen. Found before, as many as the
        configuration has levels.
    images : (B, C, *size) floating tensor
    engine : str or None
        None leaves out the stages that need one.
    config : Config, optional
        Defaults to ``Config()``.
    libragrad : bool
        As for :class:`cfcam_gpu.CFCAM`.
    """
    config = config or Config()
    request = targets.read(None, len(images))
    chosen = layer if isinstance(layer, tuple) else _chosen(model, layer, images, config)
    plan = Plan.of(chosen, config, libragrad)
    captured = plan.capture(model, images, request)
    plan = plan.with_layers(captured.layers)  # with the layouts, which an explainer finds once
    given = captured.activations, captured.gradients, config

    def forward() -> None:
        with torch.no_grad():
            model(images)

    found: dict[str, Work] = {"forward": forward, "capture": lambda: plan.capture(model, images, request)}
    if engine is not None:
        running = engines.choose(engine, images.device)
        result = execution.launch(running, *given, coarse=captured.coarse)
        explain = CFCAM(model, plan.layers, config=config, engine=engine, libragrad=libragrad)
        found["engine"] = lambda: execution.launch(running, *given, coarse=captured.coarse)
        found["upsample"] = lambda: plan.explanation(model, captured, result, images, request).maps
        found["end_to_end"] = lambda: explain(images).maps
    return found


def _chosen(model: nn.Module, layer: str, images: torch.Tensor, config: Config) -> tuple[TargetLayer, ...]:
    return layers.choose_two(model, images) if config.levels == 2 else (layers.find(model, layer),)


def measure(works: dict[str, Work], meter: Meter, *, warmup: int, repeats: int) -> dict[str, Any]:
    """Of each stage ``ms``, the median; ``quartiles_ms``; and, where the meter tells it, ``peak_mib``.

    The stages take turns, so that a clock that changes on the way changes for all of them.
    """
    for work in works.values():
        for _ in range(warmup):
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(meter.milliseconds(work))
    found: dict[str, Any] = {}
    for name, work in works.items():
        low, median, high = statistics.quantiles(times[name], n=4, method="inclusive")
        found[name] = {
            "ms": round(median, 4),
            "quartiles_ms": [round(low, 4), round(high, 4)],
        }
        if meter.peak_bytes is not None:
            found[name]["peak_mib"] = round(meter.peak_bytes(work) / 2**20, 2)
    return found
