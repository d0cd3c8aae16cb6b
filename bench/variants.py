"""The two-level default beside every variant of it that was tried: what each choice gains, and what it costs.

``python -m bench.variants --data DIR`` measures all of them as ``cfcam-gpu bench`` measures methods, writes
variants-<model>.json and draws the frontier, frontier-<model>.png. DIR is as for ``cfcam-gpu bench``: the part for
choosing that ``bench.split`` makes, since what is chosen here is the default's constants. The variants name layers of
EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cfcam_gpu import Config
from cfcam_gpu.evaluation import evaluate
from cfcam_gpu.evaluation.table import Summary, summarise
from cfcam_gpu.results import durable

from .latency import versions
from .torchvision_shim import import_torchvision
from .variant_maps import FINE, LAST, Variant, variants

ROOT = Path(__file__).resolve().parents[1]
#: Suite, metrics of it that variants are judged by, and on how many images: a mosaic takes as long as four.
MEASURED = [
    ("localisation", ["energy", "pointing", "iou"], 48),
    ("localisation", ["grid2"], 16),
    ("faithfulness", ["drop"], 48),
    ("robustness", ["gradient-noise"], 48),
    ("sanity", ["classifier"], 24),
]
#: Columns of the printed table: metric and title.
COLUMNS = {
    "energy_pointing_game": "energy",
    "pointing_game": "pointing",
    "best_iou": "IoU",
    "grid_2x2": "grid 2 x 2",
    "average_drop": "drop",
    "average_increase": "increase",
    "gradient_noise_ssim": "noise",
    "classifier_randomisation_ssim": "random",
}
REFERENCES = ["gradcam", "cfcam"]
ENERGY = "energy_pointing_game"
#: How the picture calls and colours the two.
SPECIAL = {"gradcam": ("Grad-CAM", "tab:red"), "cfcam": ("default", "tab:blue")}
#: Nearer than this share of the axes to the default a variant goes without its name.
CROWDED = 0.05


def measure(folder: Path, out: Path, tried: list[Variant], limit: int | None) -> tuple[list[Summary], list[Summary]]:
    """Every variant in every metric: paired with Grad-CAM, and paired with the default."""
    plan: list[Any] = []
    for suite, metrics, most in MEASURED:
        job = evaluate.Job(
            suite=suite,
            data=folder,
            out=out,
            methods=REFERENCES,
            metrics=metrics,
            limit=min(limit or most, most),
            overwrite=True,
        )
        run = evaluate.check(job)
        plan.extend(run.plan)
    # One run over all suites, so that a map serves every metric.
    run = replace(run, plan=tuple(plan), candidates=(*run.candidates, *tried))
    with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=run.steps)
        run.execute(lambda count: progress.advance(task, count))
    measured = {name: better for one, _ in plan for name, better in one.metrics.items()}
    names = [candidate.name for candidate in run.candidates]
    first, second = (summarise(run.rows, measured, names, reference) for reference in REFERENCES)
    return first, second


def record(paired: tuple[list[Summary], list[Summary]], tried: list[Variant]) -> dict[str, Any]:
    """What is kept: for each variant what it is, and its means and paired differences."""
    told = {"gradcam": "Grad-CAM, last layer", "cfcam": "the default"} | {one.name: one.what for one in tried}
    table: dict[str, Any] = {name: {"what": what, "metrics": {}} for name, what in told.items()}
    for against_gradcam, against_default in zip(*paired):
        mean = against_gradcam.mean
        table[against_gradcam.method]["metrics"][against_gradcam.metric] = {
            "mean": None if mean is None else [round(value, 3) for value in mean],
            **{
                f"minus {name}": None if one.difference is None else [round(value, 3) for value in one.difference]
                for name, one in zip(REFERENCES, (against_gradcam, against_default))
            },
            "images": against_gradcam.images,
            "errors": against_gradcam.errors,
        }
    return {
        "model": "lite0",
        "layers": [FINE, LAST],
        "default": repr(Config.two_level()),
        "commit": versions([])["commit"],
    } | {
        "intervals": "mean, low and high end of the 95% bootstrap interval",
        "variants": table,
    }


def show(found: dict[str, Any]) -> Table:
    """The means, a row for each variant."""
    table = Table("variant", *COLUMNS.values(), box=None)
    for name, one in found["variants"].items():
        values = [one["metrics"].get(metric, {}).get("mean") for metric in COLUMNS]
        table.add_row(name, *("-" if value is None else f"{value[0]:.1f}" for value in values))
    return table


def draw(found: dict[str, Any], path: Path) -> None:
    """Average Drop, IoU and noise SSIM against energy in the mask, a point for each variant."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = {
        name: {metric: value["mean"][0] for metric, value in one["metrics"].items() if value["mean"]}
        for name, one in found["variants"].items()
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(18, 7), layout="constrained")
    for axis, metric in zip(axes, ("average_drop", "best_iou", "gradient_noise_ssim")):
        there = {name: (one[ENERGY], one[metric]) for name, one in points.items() if {ENERGY, metric} <= one.keys()}
        spread = [max(ends) - min(ends) or 1.0 for ends in zip(*there.values())]
        for name, place in there.items():
            special = SPECIAL.get(name)
            axis.plot(
                *place, "o", color=special[1] if special else "0.65", ms=9 if special else 4, zorder=3 if special else 2
            )
            near = max(abs(a - b) / s for a, b, s in zip(place, there["cfcam"], spread)) < CROWDED
            # Around the default there is no room for names; the table has them.
            if special or not near:
                axis.annotate(
                    special[0] if special else name, place, xytext=(5, 4), textcoords="offset points",
                    fontsize=10 if special else 7,
                )  # fmt: skip
        axis.set_xlabel("energy in the mask, % (more is better)")
        axis.set_ylabel(f"{COLUMNS[metric]}, % ({'less' if metric == 'average_drop' else 'more'} is better)")
    with durable.replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where a measurement failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.variants", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "evaluation")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some variants; the record is not replaced")
    parser.add_argument("--limit", type=int, metavar="N", help="images; the record is not replaced")
    options = parser.parse_args(arguments)
    tried = variants()
    unknown = set(options.only or ()) - {one.name for one in tried}
    if unknown:
        parser.error(f"--only: no variant {', '.join(sorted(unknown))}; there are {', '.join(v.name for v in tried)}")
    tried = [one for one in tried if not options.only or one.name in options.only]
    import_torchvision()  # torchmetrics imports it
    found = record(measure(options.data, options.out, tried, options.limit), tried)
    console = Console()
    console.width = max(console.width, 130)
    console.print(show(found))
    if not options.only and options.limit is None:
        options.out.mkdir(parents=True, exist_ok=True)
        with durable.replacing(options.out / "variants-lite0.json") as file:
            file.write(json.dumps(found, indent=1).encode() + b"\n")
        draw(found, options.out / "frontier-lite0.png")
        console.print(f"written to {options.out}")
    failed = any(value["errors"] for one in found["variants"].values() for value in one["metrics"].values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
