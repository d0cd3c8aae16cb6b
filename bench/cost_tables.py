"""The tables of what an explanation costs on CPU cores, from the records of `bench.latency` and `bench.scaling`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .entries import BY_HAND

RESULTS = Path(__file__).resolve().parent / "results"

TIMED = {"cfcam": "CF-CAM, one level", "two-level": "CF-CAM, two levels"}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def recorded(benchmark: str) -> dict[str, Any]:
    """The record of a benchmark on CPU cores."""
    (path,) = RESULTS.glob(f"*-cores-{benchmark}.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def latency() -> Iterator[str]:
    """Medians of the paired ratios, over the bare forward and the peers; a column without any is left out."""
    record = recorded("latency")
    batch = record["settings"]["batch"]
    more = sorted({int(size) for one in record["networks"].values() for size in one.get("other_batches", {})})
    columns = [
        (f"time / bare forward{f', batch {batch}' if more else ''}", lambda one: one, "latency_ms", "forward"),
        *(
            (f"batch {size}", lambda one, at=str(size): one.get("other_batches", {}).get(at), "latency_ms", "forward")
            for size in more
        ),
        ("time / torch-cam's Grad-CAM", lambda one: one, "latency_ms", "torch-cam"),
        ("time / pytorch-grad-cam's Grad-CAM", lambda one: one, "latency_ms", "pytorch-grad-cam"),
        ("peak memory / bare forward", lambda one: one, "memory_mib", "forward"),
    ]
    rows = []
    for network, result in record["networks"].items():
        for name, title in (TIMED | {name: name for name in ("pytorch-grad-cam", "torch-cam")}).items():
            found = [
                (where(result) or {"ratios": {figure: {}}})["ratios"][figure].get(f"{name} / {over}")
                for _, where, figure, over in columns
            ]
            rows.append([network, title, *(f"{one['median']:.2f}" if one else "" for one in found)])
    told = [0, 1, *(i for i in range(2, len(columns) + 2) if any(row[i] for row in rows))]
    head = ["", "", *(title for title, *_ in columns)]
    return markdown([head[i] for i in told], [[row[i] for i in told] for row in rows])


def latency_bars() -> Iterator[str]:
    """What was promised of time and memory on CPU cores, and what was measured."""
    record = recorded("latency")
    figures = {
        "latency_ms": "time",
        "memory_mib": "peak memory",
        "engine_processor_ms": "processor time of the engine, one thread",
        "first_call_ms": "first call on a new model",
    }
    rows = []
    for network, result in record["networks"].items():
        for bar in result["bars"]:
            batch = record["settings"]["memory_batch"] if bar["figure"] == "memory_mib" else bar.get("batch", 8)
            value = "" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
            met = {True: "met", False: "**not met**", None: "not measured"}[bar["met"]]
            of, over = (TIMED.get(name.removesuffix(", reference"), name) for name in (bar["of"], bar["over"]))
            what = f"{figures[bar['figure']]}: {of} / {'by the engine reference' if over == of else over}"
            rows.append([network, what, str(batch), f"{bar['limit']:.2f}", value, met])
    return markdown(["", "", "batch", "at most", "measured", ""], rows)


def cpu_engines() -> Iterator[str]:
    """Processor time of an image in the engines, one thread."""
    record = recorded("latency")
    rows = []
    for network, result in record["networks"].items():
        spent = result.get("engine_processor_ms", {})
        for name, title in TIMED.items():
            each = [
                spent[key]["median"] / record["settings"]["batch"]
                for key in (f"{name}, reference", f"{name}, uncompiled", name)
                if key in spent
            ]
            if each:
                rows.append([network, title, *(f"{one:.1f}" for one in each), f"1/{each[0] / each[-1]:.1f}"])
    return markdown(["", "", "`reference`, ms", "`cpu` without numba, ms", "`cpu`, ms", "`cpu` / `reference`"], rows)


def cpu_floor() -> Iterator[str]:
    """Two levels beside the forward and backward that they can't be without, over the bare forward."""
    record = recorded("latency")
    rows = []
    for network, result in record["networks"].items():
        sizes = {str(record["settings"]["batch"]): result, **result.get("other_batches", {})}
        for size in sorted(sizes, key=int):
            over = sizes[size]["ratios"]["latency_ms"]
            keys = [f"{name} / forward" for name in (BY_HAND, "two-level", "cfcam")]
            if all(key in over for key in keys):
                rows.append([network, size, *(f"{over[key]['median']:.2f}" for key in keys)])
    head = ["", "batch", "forward and backward by hand", "CF-CAM, two levels", "CF-CAM, one level"]
    return markdown(head, rows)


def scaling_batches() -> Iterator[str]:
    """Time and memory of an image, by batch size."""
    rows = []
    for size, one in recorded("scaling")["batches"].items():
        times = [one["latency_ms"][name]["median"] / int(size) for name in ("forward", "cfcam")]
        ratio, peaks = one["ratios"]["cfcam / forward"]["median"], one["memory_mib"]
        rows.append([size, *(f"{value:.1f}" for value in times), f"{ratio:.2f}", *_peaks(peaks, int(size))])
    head = ["batch", "bare forward, ms an image", "CF-CAM, ms an image", "time / bare forward"]
    return markdown([*head, "CF-CAM, peak MiB an image", "peak memory / bare forward"], rows)


def _peaks(peaks: dict[str, float | None], size: int) -> list[str]:
    bare, ours = peaks["forward"], peaks["cfcam"]
    return ["", ""] if bare is None or ours is None else [f"{ours / size:.1f}", f"{ours / bare:.2f}"]


def scaling_processes() -> Iterator[str]:
    """Images a second of processes with one thread each, side by side."""
    record = recorded("scaling")
    cores = record["machine"]["cores"]
    rows = []
    for name, title in (("forward", "bare forward"), ("cfcam", "CF-CAM, two levels")):
        rates = record["processes"][name]
        for count, rate in rates.items():
            fair = rates["1"] * min(int(count), cores)
            rows.append([title, count, f"{rate:.1f}", f"{rate / rates['1']:.2f}", f"{100 * rate / fair:.0f}%"])
    return markdown(["", "processes", "images/s", "over one process", f"of what {cores} cores can give"], rows)


def scaling_inputs() -> Iterator[str]:
    """CF-CAM of volumes and signals over a small network's bare forward."""
    rows = []
    for name, one in recorded("scaling")["inputs"].items():
        times = [one["latency_ms"][key]["median"] / one["shape"][0] for key in ("forward", "cfcam")]
        rows.append([name, *(f"{value:.1f}" for value in times), f"{one['ratios']['cfcam / forward']['median']:.2f}"])
    return markdown(["", "bare forward, ms each", "CF-CAM, ms each", "time / bare forward"], rows)


def scaling_asked() -> Iterator[str]:
    """What more is asked of an explanation, over a plain one."""
    ratios = recorded("scaling")["asked"]["ratios"]
    return markdown(
        ["", "time / plain explanation"],
        [[pair.removesuffix(" / plain"), f"{one['median']:.2f}"] for pair, one in ratios.items()],
    )
