"""How long each stage of an explanation takes, and its peak memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from cfcam_gpu import CFCAM, Config, engines, targets
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.engines import execution
from cfcam_gpu.explain.plan import Plan
from cfcam_gpu.hooks import layers

Work = Callable[[], object]


class Meter(NamedTuple):
    """How work is measured: its time in milliseconds, and the memory in bytes that it takes beyond what was taken."""

    milliseconds: Callable[[Work], float]
    peak_bytes: Callable[[Work], int]


def cuda_meter() -> Meter:
    """CUDA events on torch's current stream, and what torch's allocator hands out, on the current device.

    Between the events lies all that the stream waits for, the host's part included. CuPy's memory is torch's inside a
    call; what cuML allocates for itself does not count.
    """

    def milliseconds(work: Work) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def peak_bytes(work: Work) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    return Meter(milliseconds, peak_bytes)


def stages(
    model: nn.Module, layer: str, images: torch.Tensor, engine: str | None, config: Config | None = None
) -> dict[str, Work]:
    """The stages by name, each ready to run by itself on what the one before it gave.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str
        Of a configuration of one level; the layers of two are chosen.
    images : (B, 3, H, W) floating tensor
    engine : str or None
        None leaves out the stages that need one.
    config : Config, optional
        Defaults to ``Config()``.
    """
    config = config or Config()
    request = targets.read(None, len(images))
    two = config.levels == 2
    chosen = layers.choose_two(model, images) if two else (layers.find(model, layer),)
    plan = Plan.of(chosen, config)
    captured = plan.capture(model, images, request)
    plan = plan.with_layers(captured.layers)  # with the layouts, which an explainer finds once
    given = captured.activations, captured.gradients, config

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    found: dict[str, Work] = {"forward": forward, "capture": lambda: plan.capture(model, images, request)}
    if engine is not None:
        running = engines.choose(engine, images.device)
        result = execution.launch(running, *given, coarse=captured.coarse)
        explain = CFCAM(model, None if two else layer, config=config, engine=engine)
        size = (images.shape[-2], images.shape[-1])
        found["engine"] = lambda: execution.launch(running, *given, coarse=captured.coarse)
        found["upsample"] = lambda: upsample(result.raw_maps[:, 0], size, saturation=config.saturation)
        found["end_to_end"] = lambda: explain(images).maps
    return found


def measure(works: dict[str, Work], meter: Meter, *, warmup: int, repeats: int) -> dict[str, Any]:
    """Of each stage ``ms``, the median; ``quartiles_ms``; and ``peak_mib``.

    The stages take turns, so that a clock that changes on the way changes for all of them.
    """
    for work in works.values():
        for _ in range(warmup):
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(meter.milliseconds(work))
    found = {}
    for name, work in works.items():
        low, median, high = statistics.quantiles(times[name], n=4, method="inclusive")
        found[name] = {
            "ms": round(median, 4),
            "quartiles_ms": [round(low, 4), round(high, 4)],
            "peak_mib": round(meter.peak_bytes(work) / 2**20, 2),
        }
    return found
