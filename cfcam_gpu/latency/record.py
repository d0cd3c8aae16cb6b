"""A measurement as JSON, as tables and as a plot."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from ..environment import describe, version
from ..results import durable
from .candidates import FORWARD
from .machine import machine
from .measure import Run, outputs
from .peers import PEERS
from .timing import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The lines of the table of stages.
_STAGES = {
    "forward": "forward",
    "capture": "forward, and backward to the layers",
    "engine": "engine",
    "upsample": "maps to the images' size",
    "end_to_end": "all of a call",
}


def record(run: Run, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, with how it came about.

    Parameters
    ----------
    run : Run
    measured : mapping
        What :meth:`Run.execute` returned.
    """
    job, loaded = run.job, run.loaded
    peers = {peer.package: version(peer.package) for peer in PEERS.values() if peer.installed}
    return {
        "benchmark": "latency of a model",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": describe()["versions"] | peers,
        "model": job.settings.model,
        "weights": None if job.settings.weights is None else str(job.settings.weights),
        "trained": loaded.model.trained,
        "device": str(loaded.device),
        "engine": loaded.engine,
        "layers": [layer.name for layer in loaded.layers],
        "settings": {"rounds": job.rounds, "seconds": job.seconds, "methods": list(job.methods)},
        **measured,
    }


def write(run: Run, found: Mapping[str, Any]) -> None:
    """Write a record and its plot.

    Raises
    ------
    OSError
        If a file can't be written.
    """
    to, plot = outputs(run.job)
    with durable.replacing(plot, last=False) as file:
        draw(found).savefig(file, format="png", dpi=150)
    with durable.replacing(to) as file:
        file.write(to_json(found).encode())


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """For each batch size what each candidate took; then the stages of CF-CAM."""
    for one in found["batches"]:
        yield _of_batch(one)
    yield _of_stages(found)


def _of_batch(one: Mapping[str, Any]) -> Table:
    on_host = "processor_ms" in one
    columns = ["ms p50", "p95", "p99", *(["processor ms"] if on_host else []), "images/s", "/ forward"]
    table = Table("", title=f"batch {one['batch']}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in (*columns, "peak MiB", "/ forward"):
        table.add_column(column, justify="right")
    for name, times in one["latency_ms"].items():
        spent = [f"{one['processor_ms'][name]['median']:.1f}"] if on_host else []
        memory = one["memory_mib"].get(name)
        table.add_row(
            name,
            *(f"{times[key]:.1f}" for key in ("median", "p95", "p99")),
            *spent,
            f"{one['images_per_second'][name]:.1f}",
            _over_forward(one, "latency_ms", name),
            "" if memory is None else f"{memory['median']:.0f}",
            _over_forward(one, "memory_mib", name),
        )
    return table


def _over_forward(one: Mapping[str, Any], figure: str, name: str) -> str:
    ratio = one["ratios"][figure].get(f"{name} / {FORWARD}")
    return "" if ratio is None else f"{ratio['median']:.2f}"


def _of_stages(found: Mapping[str, Any]) -> Table:
    table = Table("", title="by stage, ms", title_justify="left", box=box.SIMPLE_HEAD)
    parts = [(one["batch"], name, stages) for one in found["batches"] for name, stages in one["stages"].items()]
    for batch, name, _ in parts:
        table.add_column(f"{name}, batch {batch}", justify="right")
    for key, title in _STAGES.items():
        table.add_row(title, *(f"{stages[key]['ms']:.1f}" for _, _, stages in parts))
    return table


def failed(found: Mapping[str, Any]) -> list[str]:
    """A line for each comparison that withheld a candidate's figures."""
    return [
        f"{name}: its figures at batch {one['batch']} are withheld: {check['what']}: {check['difference']:.3g}, "
        f"at most {check['tolerance']:g}"
        for one in found["batches"]
        for name, checks in one["gates"].items()
        for check in checks
        if not check["passed"]
    ]


def draw(found: Mapping[str, Any]) -> Figure:
    """Milliseconds an image against the batch size, a line for each candidate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="batch size", ylabel="ms an image", title=found["model"], xscale="log")
    sizes = [one["batch"] for one in found["batches"]]
    for name in dict.fromkeys(name for one in found["batches"] for name in one["latency_ms"]):
        points = [
            (one["batch"], one["latency_ms"][name]["median"] / one["batch"])
            for one in found["batches"]
            if name in one["latency_ms"]
        ]
        bare = name == FORWARD
        (line,) = axes.plot(*zip(*points), marker="o", label="bare forward" if bare else name)
        if bare:
            line.set(color="black", linestyle="--")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
