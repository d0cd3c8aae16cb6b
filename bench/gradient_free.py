"""CF-CAM beside the methods that run the network many times: what their maps are worth, and what each costs.

``python -m bench.gradient_free maps --data DIR`` measures maps as ``cfcam-gpu bench`` does, on fewer images, each
method paired with CF-CAM of two levels. DIR is as for ``cfcam-gpu bench``.

``python -m bench.gradient_free cost`` measures the processors' time that one photograph's map takes by each method, in
turn, and writes results/MACHINE-gradient-free.json. Not the time on the clock: a map of half a minute is interrupted by
whatever else runs on a machine, and a forward of 40 ms is not. At the last layer Ablation-CAM runs no more than the
pooling and the classifier for each channel; beside it stands Ablation-CAM at the finer of CF-CAM's two layers.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from cfcam_gpu import CAM, Config
from cfcam_gpu.evaluation import evaluate
from cfcam_gpu.evaluation.table import Row, Summary, draw
from cfcam_gpu.hooks import layers
from cfcam_gpu.latency.machine import DISTURBED, cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import keep_freed_memory, processor_clock, ratios, summary, times_in_turn

from . import entries, models, plain
from .entries import Call, Check, Network, Truth
from .latency import record_path, versions, write

RESULTS = Path(__file__).parent / "results"
OURS = "cfcam"
METHODS = ["gradcam", "cfcam-paper", "smoothgradcam++", "ablationcam", "scorecam"]
#: Suite, metrics of it, and on how many images: Score-CAM takes most of a minute for one.
MEASURED = [
    ("localisation", ["energy", "pointing", "iou"], 24),
    ("localisation", ["grid2"], 8),
    ("faithfulness", ["drop", "insertion", "deletion"], 24),
]
#: Pixels between two forwards of insertion and deletion, as in ``make bench``.
STEP = 6272
#: A method of more than this in all is timed in three rounds only.
BUDGET_MS = 20_000
FINE = "ablationcam, fine layer"


def maps(folder: Path, out: Path, model: str, limit: int | None) -> tuple[list[Row], list[Summary]]:
    """Measure and write a Parquet and a JSON file for each suite, as ``cfcam-gpu bench`` does."""
    runs = [
        evaluate.check(
            evaluate.Job(
                suite=suite,
                data=folder,
                out=out,
                model=model,
                methods=METHODS,
                reference=OURS,
                metrics=metrics,
                limit=min(limit or most, most),
                step=STEP,
                overwrite=True,
            )
        )
        for suite, metrics, most in MEASURED
    ]
    # One run over all suites, so that a map serves every metric.
    whole = replace(runs[0], plan=tuple(part for run in runs for part in run.plan))
    with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=whole.steps)
        whole.execute(lambda count: progress.advance(task, count))
    rows = whole.rows
    summaries = []
    for suite in dict.fromkeys(run.job.suite for run in runs):
        own = [run for run in runs if run.job.suite == suite]
        run = replace(own[0], plan=tuple(part for one in own for part in one.plan))
        metrics = {name for measure, _ in run.plan for name in measure.metrics}
        summaries += evaluate.write(run, [row for row in rows if row.metric in metrics])
    return rows, summaries


def cost(network: Network, rounds: int) -> dict[str, Any]:
    """Gates, then processor time of one photograph's map by each method that passed its own, and their ratios."""
    model, images = network.build(), models.photographs(1, network.norm)
    fine = layers.choose_two(model, images)[0].name
    calls: dict[str, Call] = {
        "forward": entries.setup_forward(network, model),
        OURS: entries.setup_cfcam(Config.two_level())(network, model),
        **{name: _call(model, network.layer, name) for name in METHODS},
        FINE: _call(model, fine, "ablationcam"),
    }
    true = entries.truth(network, images, model)
    gates = {name: check(calls[name], true) for name, check in _checks(model).items()}
    passed = {name: call for name, call in calls.items() if all(one.passed for one in gates.get(name, []))}
    before = cores_time()
    times = times_in_turn(passed, images, rounds, clock=processor_clock, budget_ms=BUDGET_MS).clock
    figures = {name: summary(values) for name, values in times.items()}
    return {
        "layers": {"last": network.layer, "fine": fine},
        "gates": {name: [one.as_json() for one in found] for name, found in gates.items()},
        "processor_ms": figures,
        "taken_by_others": taken_by_others(before, cores_time()),
        "ratios": ratios(figures, ["forward", OURS]),
    }


def _call(model: nn.Module, layer: str, method: str) -> Call:
    explain = CAM(model, layer, method=method)
    return lambda images: explain(images).maps


def _checks(model: nn.Module) -> dict[str, Callable[[Call, Truth], list[Check]]]:
    """The gates. What has none here is held to its equation by tests/methods/test_forwards.py."""

    def ablation(true: Truth) -> np.ndarray:
        # Behind the last layer all is linear: the score falls by the sum of G A.
        activations, gradients = (one.double().numpy() for one in (true.captured_activations, true.captured_gradients))
        weights = (gradients * activations).sum(axis=(2, 3), keepdims=True)
        return np.maximum((weights * activations).sum(axis=1), 0.0)

    return {
        OURS: entries.check_two_level,
        "gradcam": _same(
            lambda true: plain.grad_cam(
                true.captured_activations.double().numpy(), true.captured_gradients.double().numpy()
            ),
            "Grad-CAM of our capture",
        ),
        "ablationcam": _same(ablation, "the fall of the score as a linear head has it"),
        "scorecam": _same(lambda true: score_cam(model, true), "a forward for each channel, one by one"),
    }


def _same(expected: Callable[[Truth], np.ndarray], what: str) -> Callable[[Call, Truth], list[Check]]:
    def check(call: Call, true: Truth) -> list[Check]:
        wanted = plain.scale(expected(true), from_minimum=False)
        wanted = plain.scale(plain.resize(wanted, true.images.shape[-2:]), from_minimum=False)
        return [Check(f"maps, against {what}", entries.apart(call(true.images), wanted), 1e-4)]

    return check


def score_cam(model: nn.Module, true: Truth) -> np.ndarray:
    """Score-CAM (1, h, w) of one image and its predicted class, channel by channel: the plain derivation."""
    (activations,) = true.captured_activations.double().numpy()
    masks = plain.scale(plain.resize(activations, true.images.shape[-2:]), from_minimum=True)
    scores = np.zeros(len(masks))
    alive = masks.any(axis=(1, 2))
    with torch.no_grad():
        scores[~alive] = model(torch.zeros_like(true.images))[0, true.logits.argmax()].item()
        for channel in np.flatnonzero(alive):
            mask = torch.from_numpy(masks[channel]).float()
            scores[channel] = model(true.images * mask)[0, true.logits.argmax()].item()
    powers = np.exp(scores - scores.max())
    return np.maximum(((powers / powers.sum())[:, None, None] * activations).sum(axis=0), 0.0)[None]


def show(found: dict[str, Any]) -> Table:
    """A cost record, a row for each method."""
    table = Table("", "gate", "ms", "/ forward", f"/ {OURS}", box=None)
    for name in ("forward", OURS, *METHODS, FINE):
        gate = found["gates"].get(name)
        told = "-" if gate is None else "passed" if all(one["passed"] for one in gate) else "[red]FAILED[/]"
        figure = found["processor_ms"].get(name)
        over = [found["ratios"].get(f"{name} / {yardstick}") for yardstick in ("forward", OURS)]
        table.add_row(
            name,
            told,
            f"{figure['median']:.1f}" if figure else "-",
            *(f"{one['median']:.2f}" if one else "-" for one in over),
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where a measurement or a gate failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gradient_free", description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    of_maps = parts.add_parser("maps", help="localisation and faithfulness")
    of_maps.add_argument("--data", type=Path, required=True, metavar="DIR")
    of_maps.add_argument("--model", default="lite0", help="as for cfcam-gpu bench")
    of_maps.add_argument("--limit", type=int, metavar="N", help="at most N images, and N mosaics")
    of_maps.add_argument("--out", type=Path, default=RESULTS / "gradient-free")
    of_cost = parts.add_parser("cost", help="time of one photograph's map")
    of_cost.add_argument("--network", choices=entries.NETWORKS, default="efficientnet-lite0")
    of_cost.add_argument("--rounds", type=int, default=11)
    of_cost.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    console = Console()
    console.width = max(console.width, 110)
    keep_freed_memory()
    if options.part == "maps":
        rows, summaries = maps(options.data, options.out, options.model, options.limit)
        console.print(*draw(summaries, OURS), sep="\n\n")
        return 1 if any(row.error for row in rows) else 0
    found = cost(entries.NETWORKS[options.network], options.rounds)
    where = machine()
    record = {
        "benchmark": "gradient-free",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": where,
        "versions": versions([]),
        "settings": {"batch": 1, "rounds": options.rounds, "network": options.network},
        **found,
    }
    path = record_path(options.out, where, "gradient-free")
    write(record, path)
    console.print(show(found))
    share = found["taken_by_others"] or 0
    console.print(f"other processes took {share:.1%} of the cores{', a disturbed run' if share > DISTURBED else ''}")
    console.print(f"written to {path}")
    return 0 if all(one["passed"] for checks in found["gates"].values() for one in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
