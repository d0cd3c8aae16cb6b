"""What ten classes of an image cost beside one, and which backward of the head is the fastest for them.

``python -m bench.targets`` measures and writes a JSON file; see bench/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from cfcam_gpu import CFCAM, targets
from cfcam_gpu.hooks import capture, gradients, layers
from cfcam_gpu.latency.machine import cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import keep_freed_memory, ratios, summary, times_in_turn

from . import models
from .entries import Call
from .latency import ROOT, record_path, versions, write

CLASSES = 10
#: Of ten classes over one, the whole call, at the last layer of ResNet-50.
BAR = 1.3
#: The largest difference between a map of ten and the same alone.
TOLERANCE = 1e-4


class Cell(NamedTuple):
    """A network, its layer (None: two levels, chosen), and what comes behind it where the backward is measured."""

    build: Callable[[], nn.Module]
    layer: str | None
    norm: tuple[tuple[float, ...], tuple[float, ...]]
    head: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None


def _resnet_head(model: Any, activations: torch.Tensor) -> torch.Tensor:
    return model.fc(model.avgpool(activations).flatten(1))


CELLS = {
    "resnet50 layer4": Cell(models.resnet50, models.RESNET50_LAYER, models.IMAGENET_NORM, _resnet_head),
    "resnet50 layer3": Cell(
        models.resnet50, "layer3", models.IMAGENET_NORM, lambda model, a: _resnet_head(model, model.layer4(a))
    ),
    "resnet50 two levels": Cell(models.resnet50, None, models.IMAGENET_NORM, None),
    "efficientnet-lite0 last": Cell(
        models.lite0,
        models.LITE0_LAYER,
        models.LITE0_NORM,
        lambda model, a: model._fc(model._avg_pooling(a).flatten(1)),
    ),
    "efficientnet-lite0 two levels": Cell(models.lite0, None, models.LITE0_NORM, None),
}
BARRED = "resnet50 layer4"


def measure(cell: Cell, rounds: int) -> dict[str, Any]:
    """Times of one cell's calls in turn, gated by the maps of ten classes being those of each alone."""
    model = cell.build()
    images = models.photographs(1, cell.norm)
    explain = CFCAM(model, cell.layer)
    one, ten = [[0]], [list(range(CLASSES))]
    several = explain(images, ten).maps[:, :CLASSES]
    alone = torch.stack([explain(images, index).maps for index in range(CLASSES)], dim=1)
    difference = float((several - alone).abs().max())
    calls: dict[str, Call] = {
        "one class": lambda x: explain(x, one).maps,
        "ten classes": lambda x: explain(x, ten).maps,
    }
    if cell.head is not None:
        assert cell.layer is not None
        found = capture.capture(model, layers.find(model, cell.layer), images, targets.read(one, 1))
        calls |= ways(lambda activations: cell.head(model, activations), found.activations)
    before = cores_time()
    times = times_in_turn(calls, images, rounds).clock
    figures = {name: summary(values) for name, values in times.items()}
    return {
        "gate": {"difference": difference, "tolerance": TOLERANCE, "passed": difference <= TOLERANCE},
        "latency_ms": figures,
        "taken_by_others": taken_by_others(before, cores_time()),
        "ratios": ratios(figures, ["one class", "backward: one class"]),
    }


def ways(head: Callable[[torch.Tensor], torch.Tensor], activations: torch.Tensor) -> dict[str, Call]:
    """Forward and backward of the head by each way to the gradients of ten classes, and of one."""

    def scores() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        leaf = activations.clone().requires_grad_()
        return list(head(leaf)[:, :CLASSES].unbind(dim=1)), [leaf]

    def one(images: torch.Tensor) -> object:
        first, leaf = scores()
        return gradients._one_by_one(first[:1], leaf, keep_graph=False)

    def replay(images: torch.Tensor) -> object:
        leaf = activations.repeat(CLASSES, 1, 1, 1).requires_grad_()
        return torch.autograd.grad(head(leaf).diagonal().sum(), leaf)

    return {
        "backward: one class": one,
        "backward: one by one": lambda images: gradients._one_by_one(*scores(), keep_graph=False),
        "backward: batched": lambda images: gradients._batched(*scores(), keep_graph=False),
        "backward: replay on copies": replay,
    }


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where a gate failed. A bar that is not met is reported and changes nothing: it is a result."""
    parser = argparse.ArgumentParser(prog="python -m bench.targets", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the record")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    console = Console()
    keep_freed_memory()
    record: dict[str, Any] = {
        "benchmark": "targets",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions([]),
        "settings": {"classes": CLASSES, "rounds": options.rounds},
        "cells": {name: measure(CELLS[name], options.rounds) for name in options.cells},
    }
    for name, found in record["cells"].items():
        value = found["ratios"]["ten classes / one class"]["median"]
        verdict = ""
        if name == BARRED:
            record["bar"] = {
                "of": "ten classes",
                "over": "one class",
                "limit": BAR,
                "ratio": value,
                "met": value <= BAR,
            }
            verdict = f", at most {BAR}: {'met' if value <= BAR else 'NOT met'}"
        console.print(f"{name}: ten classes / one class = {value:.2f}{verdict}")
        for call, figure in found["latency_ms"].items():
            console.print(f"  {call}: {figure['median']:.1f} ms")
        if not found["gate"]["passed"]:
            console.print(f"  gate failed: {found['gate']['difference']:.3g}, at most {TOLERANCE:g}", style="red")
        console.print(f"  other processes took {found['taken_by_others'] or 0:.1%} of the cores")
    path = record_path(options.out, record["machine"], "targets")
    write(record, path)
    console.print(f"written to {path}")
    return 0 if all(found["gate"]["passed"] for found in record["cells"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
