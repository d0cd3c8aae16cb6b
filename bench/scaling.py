"""How time and memory of CF-CAM grow: with the batch, processes side by side, other inputs, and what is asked.

``python -m bench.scaling`` measures and writes a JSON file; bench/README.md says how each figure comes about.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import threadpoolctl
import torch
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.latency import memory
from cfcam_gpu.latency.candidates import forward
from cfcam_gpu.latency.machine import DISTURBED, cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import Call, keep_freed_memory, ratios, summary, times_in_turn

from . import models
from .entries import NETWORKS, Network
from .latency import ROOT, peak_of, record_path, versions, write

BATCHES = (8, 64, 256)
#: Rounds at the smallest batch; larger ones have as many images in all, and three rounds at least.
ROUNDS = 21
#: What a call may take of a part's time, beyond three rounds.
BUDGET_MS = 6000.0
PROCESSES = (1, 2, 4)
#: Seconds that processes explain side by side.
SIDE_BY_SIDE = 6.0
#: Of an image's classes in one call, and of noisy copies.
CLASSES, COPIES = 10, 8


def network_of_volumes() -> nn.Module:
    """Three convolutions over volumes, whose last activation is 128 x 8 x 8 x 8 for 64^3 voxels."""
    return _convolutions(nn.Conv3d, nn.AdaptiveAvgPool3d, strides=(2, 2, 2))


def network_of_signals() -> nn.Module:
    """Three convolutions over signals, whose last activation is 128 x 157 for 10,000 samples."""
    return _convolutions(nn.Conv1d, nn.AdaptiveAvgPool1d, strides=(4, 4, 4))


def _convolutions(convolution: Any, pooling: Any, strides: tuple[int, int, int]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = (1, 32, 64, 128)
        parts: list[nn.Module] = []
        for before, after, stride in zip(widths, widths[1:], strides):
            parts += [convolution(before, after, 3, stride=stride, padding=1), nn.ReLU()]
        return nn.Sequential(*parts, pooling(1), nn.Flatten(), nn.Linear(128, 10)).eval()


def timed(calls: dict[str, Call], images: torch.Tensor, over: str, rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds of each call, in turn, and each over that of the name `over`, paired by round."""
    times = times_in_turn(calls, images, rounds, budget_ms=BUDGET_MS).clock
    found = {name: summary(values) for name, values in times.items()}
    return {"latency_ms": found, "ratios": ratios(found, [over])}


def explained(model: nn.Module, **options: Any) -> Call:
    """Images to maps at the images' size, by the default."""
    explain = CFCAM(model, **options)
    return lambda images: explain(images).maps


def of_batches(network: Network, batches: tuple[int, ...]) -> dict[str, Any]:
    """Time at each batch size, with the bare forward."""
    model = network.build()
    calls = {"forward": forward(model), "cfcam": explained(model)}
    found = {}
    # The largest first: the heap has then grown to what all need, and no page faults of its growth are timed later.
    for size in sorted(batches, reverse=True):
        rounds = max(3, ROUNDS * min(batches) // size)
        found[str(size)] = timed(calls, models.photographs(size, network.norm), "forward", rounds)
    return dict(reversed(found.items()))


def add_memory(network: Network, batches: dict[str, Any]) -> None:
    """Peaks of each, in MiB, in processes of their own."""
    for size, one in batches.items():
        one["memory_mib"] = {
            name: memory.in_child(peak_of, network.name, candidate, int(size))
            for name, candidate in (("forward", "forward"), ("cfcam", "two-level"))
        }


def side_by_side(network: str, counts: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Images a second of so many processes with one thread each, together, by name of what they do."""
    found: dict[str, Any] = {}
    for name in ("forward", "cfcam"):
        found[name] = {}
        for count in counts:
            with get_context("spawn").Manager() as manager:
                together = manager.Barrier(count)
                with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                    work = [pool.submit(_rate, network, name, together, seconds) for _ in range(count)]
                    found[name][str(count)] = round(sum(one.result() for one in work), 2)
    return found


def _rate(network: str, name: str, together: Any, seconds: float) -> float:
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    keep_freed_memory()
    built = NETWORKS[network]
    model, images = built.build(), models.photographs(8, built.norm)
    call = forward(model) if name == "forward" else explained(model)
    call(images)
    together.wait()
    start, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        call(images)
        done += len(images)
    return done / passed


def of_other_inputs() -> dict[str, Any]:
    """Volumes and signals: CF-CAM over the bare forward of a small network."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "volumes, 64 x 64 x 64": (network_of_volumes(), (2, 1, 64, 64, 64)),
        "signals, 10,000 samples": (network_of_signals(), (8, 1, 10_000)),
    }
    found = {}
    for name, (model, shape) in inputs.items():
        calls = {"forward": forward(model), "cfcam": explained(model)}
        one = timed(calls, torch.randn(shape, generator=generator), "forward")
        found[name] = {"shape": list(shape), **one}
    return found


def of_what_is_asked(network: Network) -> dict[str, Any]:
    """What more is asked of an explanation, over a plain one of the same images in the same round."""
    model, images = network.build(), models.photographs(8, network.norm)
    explain = CFCAM(model)
    classes = explain(images).logits.topk(CLASSES, dim=1).indices
    calls: dict[str, Call] = {
        "plain": lambda images: explain(images).maps,
        "components": lambda images: explain(images).components(images),
        "ten classes": lambda images: explain(images, target=classes).maps,
        "smooth=8": explained(model, smooth=COPIES, seed=0),
        "augment=flip": explained(model, augment="flip"),
    }
    return timed(calls, images, "plain", rounds=9)


def main(arguments: list[str] | None = None) -> int:
    """0."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the record")
    parser.add_argument("--network", choices=NETWORKS, default="efficientnet-lite0")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument("--seconds", type=float, default=SIDE_BY_SIDE, help="that processes explain side by side")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    network = NETWORKS[options.network]
    before = cores_time()
    parts = {
        "asked": of_what_is_asked(network),
        "inputs": of_other_inputs(),
        "batches": of_batches(network, tuple(options.batches)),
    }
    taken = taken_by_others(before, cores_time())
    if taken is not None and taken > DISTURBED:
        print(f"other processes took {taken:.0%} of the cores: measure again on an idle machine")
    add_memory(network, parts["batches"])
    record = {
        "benchmark": "scaling",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions([]),
        "network": network.name,
        "settings": {
            "batches": list(options.batches),
            "processes": list(options.processes),
            "seconds": options.seconds,
        },
        **parts,
        "processes": side_by_side(network.name, tuple(options.processes), options.seconds),
        "taken_by_others": taken,
    }
    path = record_path(options.out, record["machine"], record["benchmark"])
    write(record, path)
    print(f"written to {path}; python -m bench.tables writes the tables of docs/cost.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
