"""Latency and peak memory on a GPU: ours, the rapids engine, the peers and the bare forward, in turn, in one run.

``make gpu-check`` measures it as its part "latency", alone with ``ARGS="--only latency"``.
``python -m bench.gpu_latency FILE`` prints a record as Markdown, and ``--plot PNG`` draws it. See bench/README.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cfcam_gpu.latency.stages import Meter
from cfcam_gpu.latency.timing import ratios, summary, times_in_turn

from . import gpu_entries
from .entries import Call
from .gpu_entries import BARS, CANDIDATES, CELLS, NETWORKS, TOLERANCES, YARDSTICKS, Bar, Candidate, Cell, Scene
from .latency import versions
from .models import pictures

#: What a candidate may take of a cell's time, beyond three rounds.
BUDGET_MS = 1500.0


def measure(
    device: torch.device,
    meter: Meter,
    report: Callable[[dict[str, Any]], None],
    *,
    engine: str = "fused",
    cells: list[Cell] = CELLS,
    candidates: list[Candidate] = CANDIDATES,
    authors: Path | None = None,
    known: dict[str, Any] | None = None,
    rounds: int = 21,
    minutes_left: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """The record of all cells, as JSON takes it.

    Parameters
    ----------
    device : torch.device
    meter : Meter
    report : callable
        Gets the record after each cell, so that what is cut off later keeps it.
    engine : str
        The one that is measured.
    cells, candidates : list
    authors : Path, optional
        A checkout of the authors' published code.
    known : dict, optional
        An earlier record. Cells with figures in it are not measured again, if it is of the same commit and packages.
    rounds : int
    minutes_left : callable
        A cell is only begun while there is some.

    Returns
    -------
    dict
        ``passed``: every gate of every cell, and all of ours ran. ``cells``: by name. ``bars``.
    """
    there = [one for one in candidates if why_left_out(one, authors) is None]
    record: dict[str, Any] = {
        "passed": False,
        "versions": versions([one for one in there if one.package]),
        "rounds": rounds,
        "left_out": {one.name: why_left_out(one, authors) for one in candidates if one not in there},
        "cells": {},
    }
    if known and known.get("versions") == record["versions"] and record["versions"]["commit"] != "unknown":
        record["cells"] = {name: cell for name, cell in known["cells"].items() if "latency_ms" in cell}
        report(record)
    for cell in cells:
        if cell.name in record["cells"]:
            continue
        if minutes_left() <= 0:
            record["cells"][cell.name] = {"passed": False, "reason": "not begun: no time was left"}
            continue
        print(f"gpu-latency: {cell.name}", flush=True)
        try:
            record["cells"][cell.name] = measure_cell(cell, device, meter, engine, there, authors, rounds)
        except ImportError as error:
            record["cells"][cell.name] = {"passed": True, "reason": f"left out: {error}"}
        except Exception as error:  # out of memory, say: the record says so, and has the other cells
            traceback.print_exc()
            record["cells"][cell.name] = {"passed": False, "reason": f"{type(error).__name__}: {error}"}
        record["bars"] = judge(record["cells"], BARS)
        report(record)
        gc.collect()  # peers leave cycles
        if device.type == "cuda":
            torch.cuda.empty_cache()
    record["bars"] = judge(record["cells"], BARS)
    record["passed"] = all(cell["passed"] for cell in record["cells"].values())
    return record


def why_left_out(candidate: Candidate, authors: Path | None) -> str | None:
    """Why a candidate can't be measured here, or None."""
    if candidate.module and importlib.util.find_spec(candidate.module) is None:
        return f"{candidate.package} is not installed"
    if candidate.name == "authors" and authors is None:
        return "no checkout of the published code was given (--authors-code)"
    return None


def measure_cell(
    cell: Cell,
    device: torch.device,
    meter: Meter,
    engine: str,
    candidates: list[Candidate],
    authors: Path | None,
    rounds: int,
) -> dict[str, Any]:
    """Gates, then times and memory of the candidates that passed theirs, and what follows from them."""
    network = NETWORKS[cell.network]
    model = network.build().to(device, memory_format=torch.channels_last)
    images, kind = pictures(cell.batch, network.norm)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    scene = Scene(network, model, images, TOLERANCES[cell.precision], engine, authors)
    calls: dict[str, Call] = {}
    gates: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    chosen = {one.name: one for one in candidates if cell.full or not one.full}
    with gpu_entries.precision(cell.precision):
        for name, one in chosen.items():
            try:
                call = one.setup(scene)
                checks = one.check(call, scene) if one.check else []
            except Exception as error:  # the others are measured all the same
                traceback.print_exc()
                left_out[name] = f"{type(error).__name__}: {error}"
                continue
            gates[name] = [check.as_json() for check in checks]
            if all(check.passed for check in checks):
                calls[name] = _sampled(call, one.sample)
        times = times_in_turn(
            calls,
            images,
            rounds,
            clock=lambda call, images: meter.milliseconds(partial(call, images)),
            budget_ms=BUDGET_MS,
        ).clock
        peaks = {name: meter.peak_bytes(partial(call, images)) / 2**20 for name, call in calls.items()}
    scales = {name: cell.batch / min(chosen[name].sample or cell.batch, cell.batch) for name in calls}
    latency = {name: summary([scales[name] * value for value in values]) for name, values in times.items()}
    ours = all(name in calls for name, one in chosen.items() if not one.full)
    # A graph takes its memory when it is captured, and none when it is replayed.
    memory = {name: summary([value]) for name, value in peaks.items() if value > 0}
    figures = {"latency_ms": latency, "memory_mib": memory}
    return {
        "passed": ours and all(check["passed"] for checks in gates.values() for check in checks),
        "images": kind,
        "batch": cell.batch,
        "gates": gates,
        "left_out": left_out,
        "sampled": {name: chosen[name].sample for name in calls if scales[name] > 1},
        **figures,
        "ratios": {figure: ratios(found, YARDSTICKS) for figure, found in figures.items()},
    }


def _sampled(call: Call, sample: int | None) -> Call:
    return call if sample is None else lambda images: call(images[:sample])


def judge(cells: dict[str, Any], bars: list[Bar]) -> list[dict[str, Any]]:
    """Each bar with the value measured and whether it is met; None where it wasn't measured."""
    judged = []
    for bar in bars:
        value = _value(cells.get(bar.cell, {}), bar)
        judged.append({**bar._asdict(), "value": value, "met": None if value is None else value <= bar.limit})
    return judged


def _value(cell: dict[str, Any], bar: Bar) -> float | None:
    if bar.over is not None:
        found = cell.get("ratios", {}).get(bar.figure, {}).get(f"{bar.of} / {bar.over}")
        return found and found["median"]
    assert bar.figure == "us_per_image"
    found = cell.get("latency_ms", {}).get(bar.of)
    return found and round(1e3 * found["median"] / cell["batch"], 3)


def show(record: dict[str, Any]) -> str:
    """A record of the GPU check as Markdown: a table for each network and precision, then the bars."""
    latency = record["latency"]
    lines = [f"{record['device']}, {latency['versions']['commit']}, torch {latency['versions']['torch']}"]
    for title in dict.fromkeys(_title(name) for name in latency["cells"]):
        cells = {name: cell for name, cell in latency["cells"].items() if _title(name) == title and "ratios" in cell}
        if cells:
            lines += ["", *_table(title, sorted(cells.values(), key=lambda cell: cell["batch"]))]
    words = {True: "met", False: "**not met**", None: "not measured"}
    lines += ["", "| bar | limit | measured | |", "|---|---|---|---|"]
    for bar in latency.get("bars", []):
        what = f"{bar['cell']}: {bar['figure']} of {bar['of']}" + (f" / {bar['over']}" if bar["over"] else "")
        lines.append(f"| {what} | {bar['limit']:.3g} | {_number(bar['value'])} | {words[bar['met']]} |")
    return "\n".join(lines)


def _title(name: str) -> str:
    network, _, precision = name.split(", ")
    return f"{network}, {precision}"


def _table(title: str, cells: list[dict[str, Any]]) -> list[str]:
    """Milliseconds of the forward, all others as multiples of it; MiB at the peak behind them."""
    names = [one.name for one in CANDIDATES if any(one.name in cell["latency_ms"] for cell in cells)]
    heads = [f"batch {cell['batch']}" for cell in cells]
    lines = [f"| {title} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        unit = "ms" if name == "forward" else "x forward"
        lines.append(f"| {name}, {unit} | {' | '.join(_cell(cell, name) for cell in cells)} |")
    return lines


def _cell(cell: dict[str, Any], name: str) -> str:
    if name == "forward":
        return _number(cell["latency_ms"].get(name, {}).get("median"))
    time, memory = (
        cell["ratios"][figure].get(f"{name} / forward", {}).get("median") for figure in ("latency_ms", "memory_mib")
    )
    return _number(time) if memory is None else f"{_number(time)} (memory {_number(memory)})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def plot(record: dict[str, Any], path: Path) -> None:
    """Time for each image over the batch size, of one network and precision a panel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = {name: cell for name, cell in record["latency"]["cells"].items() if "latency_ms" in cell}
    titles = [title for title in dict.fromkeys(map(_title, cells)) if sum(_title(name) == title for name in cells) > 1]
    figure, panels = pyplot.subplots(1, max(1, len(titles)), figsize=(6 * max(1, len(titles)), 4.5), squeeze=False)
    for panel, title in zip(panels[0], titles):
        own = sorted((cell for name, cell in cells.items() if _title(name) == title), key=lambda cell: cell["batch"])
        for one in CANDIDATES:
            points = [
                (cell["batch"], cell["latency_ms"][one.name]["median"] / cell["batch"])
                for cell in own
                if one.name in cell["latency_ms"]
            ]
            if points:
                panel.plot(*zip(*points), marker="o", label=one.name)
        panel.set(xscale="log", yscale="log", xlabel="batch", ylabel="ms an image", title=title)
        panel.set_xticks([cell["batch"] for cell in own], [str(cell["batch"]) for cell in own])
        panel.minorticks_off()
        panel.legend(fontsize="small")
    figure.suptitle(record["device"])
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_latency", description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, metavar="FILE", help="what make gpu-check has written")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw it, too")
    options = parser.parse_args(arguments)
    record = json.loads(options.record.read_text())
    print(show(record))
    if options.plot:
        plot(record, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
