"""The tables of the README and the documentation, from the files in bench/results and the library's methods.

``python -m bench.tables`` writes them between their marks, ``<!-- table NAME -->`` and ``<!-- end -->``; ``--check``
says which are not what the results say, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cfcam_gpu import methods as library
from cfcam_gpu.metrics import Interval
from cfcam_gpu.results import durable

from . import (
    bars,
    cost_tables,
    deployment_tables,
    detection_tables,
    evidence_tables,
    instrument_tables,
    scan_tables,
    slide_tables,
)
from .cost_tables import RESULTS, markdown, recorded
from .evidence_tables import METHODS, TITLES
from .variants import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "docs/choosing.md",
    "docs/method.md",
    "docs/measured.md",
    "docs/cost.md",
    "docs/deploying.md",
    "docs/detection.md",
    "bench/NOTES.md",
    "docs/slides.md",
    "docs/volumes.md",
]
MARK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

MANY_FORWARDS = [
    *("gradcam", "cfcam-paper", "cfcam", "smoothgradcam++"),
    *("ablationcam", "ablationcam, fine layer", "scorecam"),
]
OF_MANY_FORWARDS = [
    *("energy_pointing_game", "pointing_game", "best_iou", "grid_2x2", "average_drop", "average_increase"),
    *("average_gain", "insertion_auc", "deletion_auc"),
]
WITHOUT_GRADIENTS = ["cfcam", "ablationcam", "scorecam"]
IN_BRIEF = [
    *("energy_pointing_game", "pointing_game", "best_iou", "grid_2x2", "average_drop", "average_increase"),
    "insertion_auc",
]


def means(folder: Path, model: str) -> dict[tuple[str, str], float]:
    """The mean of each method and metric."""
    found = {}
    for path in sorted(folder.glob(f"*-{model}.json")):
        for line in json.loads(path.read_text()).get("table", []):
            if line["mean"] is not None:
                found[line["method"], line["metric"]] = line["mean"]["mean"]
    return found


def variants() -> Iterator[str]:
    """Means of every variant of the default."""
    record: dict[str, Any] = json.loads((RESULTS / "evaluation" / "variants-lite0.json").read_text())
    rows = []
    for name, one in record["variants"].items():
        values = [one["metrics"][metric]["mean"] for metric in COLUMNS]
        told = ["-" if value is None else f"{value[0]:.1f}" for value in values]
        rows.append([f"**{name}**" if name in ("gradcam", "cfcam") else name, one["what"], *told])
    return markdown(["variant", "", *COLUMNS.values()], rows)


def extents() -> Iterator[str]:
    """The three extents of the two-level map, as measured among its variants."""
    record: dict[str, Any] = json.loads((RESULTS / "evaluation" / "variants-lite0.json").read_text())
    shown = ("energy_pointing_game", "grid_2x2", "pointing_game", "best_iou", "average_drop")
    rows = []
    for extent, variant in {"broad": "saturation 0.1", "balanced": "cfcam", "tight": "no saturation"}.items():
        found = record["variants"][variant]["metrics"]
        row = [extent]
        for metric in shown:
            difference = found[metric]["minus cfcam"]
            gain = "" if difference is None or not any(difference) else f" ({bars.told(Interval(*difference))})"
            row.append(f"{found[metric]['mean'][0]:.1f}{gain}")
        rows.append(row)
    return markdown(["extent", *(TITLES[metric] for metric in shown)], rows)


def on_gpu() -> dict[str, Any]:
    """The record of `make gpu-check`."""
    (path,) = RESULTS.glob("nvidia-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def gpu_bars() -> Iterator[str]:
    """What was promised on a GPU and what was measured."""
    record = on_gpu()
    rows = []
    for bar in record["latency"]["bars"]:
        what = f"{bar['of']} / {bar['over']}" if bar["over"] else bar["of"]
        unit = (
            "µs an image"
            if bar["figure"] == "us_per_image"
            else {"latency_ms": "time", "memory_mib": "memory"}[bar["figure"]]
        )
        value = "" if bar["value"] is None else f"{bar['value']:.3g}"
        met = {True: "met", False: "not met", None: "not measured"}[bar["met"]]
        rows.append([bar["cell"], f"{unit}, {what}", f"{bar['limit']:.3g}", value, met])
    return markdown(["cell", "", "at most", "measured", f"{record['device']}, {record['latency']['commit']}"], rows)


def gpu_kernels() -> Iterator[str]:
    """What each kernel takes of an image of ResNet-50's last two stages."""
    record = on_gpu()["bandwidth"]
    cells = [record[name] for name in ("layer4", "layer3")]
    names = sorted({name for cell in cells for name in cell if "::" not in name})
    rows = [
        [
            name,
            *(f"{cell[name][key]:.3g}" if name in cell else "" for cell in cells for key in ("us", "mb", "registers")),
        ]
        for name in names
    ]
    totals = [f"{sum(one['us'] for one in cell.values()):.3g}" for cell in cells]
    rows.append(["all, torch's own among them", totals[0], "", "", totals[1], "", ""])
    head = [f"kernel, at {record['commit']}"]
    return markdown(
        [*head, *(f"{cell}: {key}" for cell in ("layer4", "layer3") for key in ("µs", "MB", "registers"))], rows
    )


def gradient_free(names: Sequence[str], metrics: Sequence[str]) -> Iterator[str]:
    """Time over the bare forward and over ours, and means, beside the methods that run the network many times."""
    times = recorded("gradient-free")["ratios"]
    found = means(RESULTS / "gradient-free", "lite0")
    rows = []
    for name in names:
        over = [times.get(f"{name} / {yardstick}") for yardstick in ("forward", "cfcam")]
        told = [f"{one['median']:.{0 if one['median'] >= 100 else 1}f}" if one else "" for one in over]
        values = [found.get((name, metric)) for metric in metrics]
        rows.append([METHODS[name], *told, *("" if value is None else f"{value:.1f}" for value in values)])
    head = ["", "time / bare forward", "time / CF-CAM, default", *(TITLES[metric] for metric in metrics)]
    return markdown(head, rows)


def gradient_free_gains() -> Iterator[str]:
    """What ours gains over each of them, paired, positive where ours is better."""
    gains = {}
    for path in sorted((RESULTS / "gradient-free").glob("*-lite0.json")):
        for line in json.loads(path.read_text())["table"]:
            if line["difference"] is not None:
                mean, low, high = (line["difference"][key] for key in ("mean", "low", "high"))
                if line["better"] == "high":
                    mean, low, high = 0 - mean, 0 - high, 0 - low
                gains[line["method"], line["metric"]] = bars.told(Interval(mean, low, high))
    rows = [
        [METHODS[name], *(gains.get((name, metric), "") for metric in OF_MANY_FORWARDS)]
        for name in MANY_FORWARDS
        if any(key[0] == name for key in gains)
    ]
    return markdown(["against", *(TITLES[metric] for metric in OF_MANY_FORWARDS)], rows)


def components() -> Iterator[str]:
    """What the first four groups of channels hold and how their maps overlap, for each way to group them."""
    record: dict[str, Any] = json.loads((RESULTS / "evaluation" / "components-lite0.json").read_text())
    rows = []
    for name, one in record["variants"].items():
        difference = one["difference"]
        rows.append(
            [
                f"**{name}**" if name == record["chosen"] else name,
                f"{one['groups']['median']:.0f}",
                *(f"{100 * one['held'][k]['mean']:.0f}" for k in (0, 3)),
                f"{one['overlap']['mean']:.2f}",
                f"{one['random']['mean']:.2f}",
                f"{difference['mean']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}]",
            ]
        )
    head = ["grouping", "groups", "first holds, %", "first four hold, %", "overlap", "of random groups", "difference"]
    return markdown(head, rows)


def registry() -> Iterator[str]:
    """Every method of the library."""
    rows = [[f"`{name}`", one.title, one.paper, one.cost] for name, one in library.METHODS.items()]
    return markdown(["method=", "", "defined in", "cost beyond one forward"], rows)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "brief": lambda: evidence_tables.means("lite0", evidence_tables.BRIEF, evidence_tables.IN_BRIEF),
    "networks": evidence_tables.networks,
    **{f"means-{name}": partial(evidence_tables.means, name) for name in evidence_tables.NETWORKS},
    "gains": evidence_tables.gains,
    "verdicts": evidence_tables.verdicts,
    "ranks": evidence_tables.ranks,
    "gradient-free": lambda: gradient_free(MANY_FORWARDS, OF_MANY_FORWARDS),
    "gradient-free-brief": lambda: gradient_free(WITHOUT_GRADIENTS, IN_BRIEF),
    "gradient-free-gains": gradient_free_gains,
    "variants": variants,
    "extents": extents,
    "components": components,
    "exact": instrument_tables.exact,
    "shapes-cnn": lambda: instrument_tables.shapes("cnn"),
    "shapes-vit": lambda: instrument_tables.shapes("vit"),
    "shapes-vit-mean": lambda: instrument_tables.shapes("vit-mean"),
    "innocence": instrument_tables.innocence,
    "latency": cost_tables.latency,
    "latency-bars": cost_tables.latency_bars,
    "cpu-engines": cost_tables.cpu_engines,
    "cpu-floor": cost_tables.cpu_floor,
    "scaling-batches": cost_tables.scaling_batches,
    "scaling-processes": cost_tables.scaling_processes,
    "scaling-inputs": cost_tables.scaling_inputs,
    "scaling-asked": cost_tables.scaling_asked,
    "deployment-parity": deployment_tables.parity,
    "deployment-cost": deployment_tables.costs,
    "detections": detection_tables.costs,
    "detections-maps": detection_tables.localisation,
    "slides": slide_tables.costs,
    "scans": scan_tables.costs,
    "gpu-bars": gpu_bars,
    "gpu-kernels": gpu_kernels,
    "methods": registry,
}


def fill(text: str) -> str:
    """A document with its tables as the results have them."""
    return MARK.sub(lambda found: found[1] + "\n".join(["", *TABLES[found[2]](), "", found[3]]), text)


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where ``--check`` finds a table that is not what the results say."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    status = 0
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        if filled == text:
            continue
        if options.check:
            print(f"{name}: a table is not what bench/results says; run python -m bench.tables", file=sys.stderr)
            status = 1
        else:
            with durable.replacing(path) as file:
                file.write(filled.encode())
            print(f"written: {name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
