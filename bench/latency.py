"""Latency and peak memory of CF-CAM beside its peers and the bare forward, in turn, in one run.

The machinery is that of ``cfcam-gpu bench latency`` with fixed models, gates of their own and the bars.
``python -m bench.latency`` measures and writes a JSON file; ``--show FILE`` prints one. See bench/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import threadpoolctl
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from cfcam_gpu import Config, __version__, engines, targets
from cfcam_gpu.engines import cpu, execution
from cfcam_gpu.environment import version
from cfcam_gpu.explain.plan import Plan
from cfcam_gpu.hooks.capture import Captured
from cfcam_gpu.hooks.layers import choose_two, find
from cfcam_gpu.latency import gate, memory
from cfcam_gpu.latency.machine import DISTURBED, cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import (
    Call,
    first_calls,
    host_clock,
    keep_freed_memory,
    processor_clock,
    ratios,
    summary,
    times_in_turn,
    to_json,
)
from cfcam_gpu.results import durable

from . import models
from .entries import (
    AT_EACH_SIZE,
    BARS,
    BY_HAND,
    CANDIDATES,
    DEFAULT_NETWORKS,
    NETWORKS,
    YARDSTICKS,
    Candidate,
    Network,
    setup_cfcam,
    truth,
)

ROOT = Path(__file__).resolve().parents[1]
#: New models whose first call is timed, and rounds of the engines beside each other.
FIRST, ENGINE_ROUNDS = 5, 7
#: The engine cpu without numba.
UNCOMPILED = "uncompiled"


def peak_of(network: str, candidate: str, batch: int) -> float | None:
    """MiB that one call on `batch` images takes beyond model and images; for a process of its own."""
    built = NETWORKS[network]
    call = CANDIDATES[candidate].setup(built, built.build())
    return memory.host_peak(call, models.photographs(batch, built.norm))


def engine_parts(network: str, batch: int) -> dict[str, list[float]]:
    """Milliseconds of processor time of the engines on what one and two levels give them, by round; one thread.

    For a process of its own, since it leaves this one with one thread.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    built = NETWORKS[network]
    model, images = built.build(), models.photographs(batch, built.norm)
    calls: dict[str, Call] = {}
    for name, config in (("cfcam", Config()), ("two-level", Config.two_level())):
        layers = choose_two(model, images) if config.levels == 2 else (find(model, built.layer),)
        captured = Plan.of(layers, config).capture(model, images, targets.read(None, batch))
        launch = partial(_launch, captured, config)
        calls[name] = partial(launch, "cpu")
        calls[f"{name}, {UNCOMPILED}"] = partial(_without_numba, calls[name])
        calls[f"{name}, {gate.REFERENCE}"] = partial(launch, gate.REFERENCE)
    with threadpoolctl.threadpool_limits(1):
        return times_in_turn(calls, images, ENGINE_ROUNDS, clock=processor_clock).clock


def _launch(captured: Captured, config: Config, engine: str, images: torch.Tensor) -> object:
    running = engines.choose(engine, images.device)
    return execution.launch(running, captured.activations, captured.gradients, config, coarse=captured.coarse)


def _without_numba(call: Call, images: torch.Tensor) -> object:
    """As where numba is not installed."""
    with patch.object(cpu, "_compiled", lambda: None):
        return call(images)


def measure(network: Network, candidates: list[Candidate], options: argparse.Namespace) -> dict[str, Any]:
    """Gates, then times and memory of the candidates that passed theirs, and what follows from them."""
    keep_freed_memory()
    images = models.photographs(options.batch, network.norm)
    calls = {one.name: one.setup(network, network.build()) for one in candidates}
    true = truth(network, images)
    gates = {one.name: one.check(calls[one.name], true) for one in candidates if one.check}
    passed = [one for one in candidates if all(check.passed for check in gates.get(one.name, []))]
    before = cores_time()
    times = times_in_turn({one.name: calls[one.name] for one in passed}, images, options.rounds).clock
    others = {
        str(size): _at_size(network, {name: calls[name] for name in AT_EACH_SIZE}, size, options.rounds)
        for size in network.more_batches
    }
    two_level = setup_cfcam(Config.two_level())
    first = first_calls(lambda: two_level(network, network.build()), images, FIRST, host_clock)
    disturbed = taken_by_others(before, cores_time())
    del calls, true  # the children that measure memory need it
    spent = memory.in_child(engine_parts, network.name, options.batch)
    peaks: dict[str, list[float | None]] = {one.name: [] for one in passed}
    for _ in range(options.memory_repeats):
        for one in passed:
            peaks[one.name].append(memory.in_child(peak_of, network.name, one.name, options.memory_batch))
    figures = {
        "latency_ms": {name: summary(values) for name, values in times.items()},
        "memory_mib": {name: summary(values) for name, values in peaks.items() if values and None not in values},
        "engine_processor_ms": {name: summary(values) for name, values in spent.items()},
        "first_call_ms": {"first": first["first_ms"], "later": first["later_ms"]},
    }
    over = YARDSTICKS + [name for name in spent if name.endswith(gate.REFERENCE)] + ["later"]
    result = {
        "layer": network.layer,
        "peers_module": network.module,
        "note": network.note,
        "candidates": [one.name for one in candidates],
        "gates": {name: [check.as_json() for check in checks] for name, checks in gates.items()},
        **figures,
        "taken_by_others": disturbed,
        "ratios": {figure: ratios(found, over) for figure, found in figures.items()},
        "other_batches": others,
    }
    return {**result, "bars": judge(network.name, options.batch, result)}


def _at_size(network: Network, calls: dict[str, Call], size: int, rounds: int) -> dict[str, Any]:
    """Times at another batch size, of what gives the reference's results there."""
    images = models.photographs(size, network.norm)
    gates = {}
    for name, call in calls.items():
        if name not in ("forward", BY_HAND):
            found = call(images)
            gates[name] = gate.check(found.origin.model, found.layers, found.config, "cpu", images)
    passed = {name: call for name, call in calls.items() if all(check.passed for check in gates.get(name, []))}
    times = {name: summary(values) for name, values in times_in_turn(passed, images, rounds).clock.items()}
    return {
        "gates": {name: [check.as_json() for check in checks] for name, checks in gates.items()},
        "latency_ms": times,
        "ratios": {"latency_ms": ratios(times, YARDSTICKS)},
    }


def judge(network: str, batch: int, result: dict[str, Any]) -> list[dict[str, Any]]:
    """A network's bars: the median of the paired ratios, its limit, and whether it is met; None: it wasn't measured."""
    bars = []
    for bar in BARS:
        if bar.network != network:
            continue
        at_size = result if bar.batch == batch else result["other_batches"].get(str(bar.batch))
        found = at_size and at_size["ratios"].get(bar.figure, {}).get(f"{bar.of} / {bar.over}")
        value = found and found["median"]
        met = None if value is None else value <= bar.limit
        bars.append({**bar._asdict(), "ratio": value, "met": met})
    return bars


def record_path(folder: Path, where: dict[str, Any], benchmark: str) -> Path:
    """The file of a benchmark's record of a :func:`machine`."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{where['cpu']} {where['cores']} cores".lower()).strip("-")
    return folder / f"{slug}-{benchmark}.json"


def write(record: dict[str, Any], path: Path) -> None:
    """A record as JSON, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable.replacing(path) as file:
        file.write(to_json(record).encode())


def versions(candidates: list[Candidate]) -> dict[str, str]:
    """Of all that takes part in the figures."""
    names = ["torch", "numpy", "scipy", "scikit-learn", "numba", *(one.package for one in candidates if one.package)]
    found = {name: version(name) or "unknown" for name in names}
    ours = {"cfcam_gpu": __version__, "commit": commit()}
    return {**ours, "python": platform.python_version(), **found}


def commit() -> str:
    """This checkout's; ends in -dirty where files differ from it. CFCAM_COMMIT says it where no history came along."""
    if "CFCAM_COMMIT" in os.environ:
        return os.environ["CFCAM_COMMIT"]
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:  # no git here
        return "unknown"


def show(record: dict[str, Any], console: Console) -> None:
    """Print a record as tables."""
    where, how = record["machine"], record["settings"]
    console.print(
        f"[bold]{where['cpu']}[/], {where['cores']} cores, {where['torch_threads']} torch threads; {record['date']}; "
        f"batch {how['batch']}, {how['rounds']} rounds; memory at batch {how['memory_batch']}; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    )
    for name, result in record["networks"].items():
        table = Table(title=f"{name}: {result['layer']} ({result['note']})", box=box.SIMPLE_HEAD)
        columns = ("", "gate", "ms", "quartiles", *(f"/ {name}" for name in YARDSTICKS), "peak MiB", "/ forward")
        for column in columns:
            table.add_column(column, justify="left" if column in ("", "gate") else "right")
        for candidate in result["candidates"]:
            table.add_row(*_row(result, candidate))
        console.print(table)
        for size, at in result["other_batches"].items():
            for pair, ratio in at["ratios"]["latency_ms"].items():
                console.print(f"  batch {size}: {pair} = {ratio['median']:.2f}")
        if result["taken_by_others"] is not None:
            share = result["taken_by_others"]
            hint = " [red](disturbed: measure again on an idle machine)[/]" if share > DISTURBED else ""
            console.print(f"  other processes took {share:.1%} of the cores while times were taken{hint}")
        for bar in result["bars"]:
            verdict = {True: "[green]met[/]", False: "[red]NOT met[/]", None: "[yellow]not measured[/]"}[bar["met"]]
            value = "-" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
            console.print(
                f"  {bar['figure']}, batch {bar['batch']}: {bar['of']} / {bar['over']} = {value}, at most "
                f"{bar['limit']:g}: {verdict}"
            )
        for candidate, checks in _gates(result):
            for check in checks:
                if not check["passed"]:
                    console.print(
                        f"  [red]gate of {candidate} failed[/]: {check['what']}: {check['difference']:.3g}, at most "
                        f"{check['tolerance']:g}; its figures are withheld"
                    )


def _gates(result: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Of each candidate its checks, at every batch size."""
    more = [
        (f"{name} at batch {size}", checks)
        for size, at in result["other_batches"].items()
        for name, checks in at["gates"].items()
    ]
    return [*result["gates"].items(), *more]


def _row(result: dict[str, Any], candidate: str) -> list[str]:
    checks = result["gates"].get(candidate)
    gate = "-" if checks is None else "passed" if all(check["passed"] for check in checks) else "[red]FAILED[/]"

    def over(figure: str, other: str) -> str:
        found = result["ratios"][figure].get(f"{candidate} / {other}")
        return f"{found['median']:.2f}" if found else "-"

    times, memory = (result[figure].get(candidate) for figure in ("latency_ms", "memory_mib"))
    return [
        candidate,
        gate,
        f"{times['median']:.1f}" if times else "-",
        "{:.1f} .. {:.1f}".format(*times["quartiles"]) if times else "-",
        *(over("latency_ms", name) for name in YARDSTICKS),
        f"{memory['median']:.0f}" if memory else "-",
        over("memory_mib", "forward"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a record and measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the record")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=DEFAULT_NETWORKS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--memory-batch", type=int, default=8)
    parser.add_argument("--memory-repeats", type=int, default=3, help="0 measures no memory")
    parser.add_argument("--without-peers", action="store_true", help="only ours and the bare forward")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where a gate failed. A bar that is not met is reported and changes nothing: it is a result."""
    options = _parser().parse_args(arguments)
    console = Console()
    console.width = max(console.width, 120)  # of the tables, whatever the terminal or the log file
    if options.show:
        show(json.loads(options.show.read_text()), console)
        return 0
    candidates = [one for one in CANDIDATES.values() if not (one.package and options.without_peers)]
    absent = [one.package for one in candidates if one.module and not importlib.util.find_spec(one.module)]
    if absent:
        console.print(
            f"{' and '.join(absent)} not installed: `make bench-latency` sets them up, --without-peers does without",
            style="red",
        )
        return 2
    record: dict[str, Any] = {
        "benchmark": "latency",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(candidates),
        "settings": {k: getattr(options, k) for k in ("batch", "rounds", "memory_batch", "memory_repeats")},
        "networks": {name: measure(NETWORKS[name], candidates, options) for name in options.networks},
    }
    path = record_path(options.out, record["machine"], record["benchmark"])
    write(record, path)
    show(record, console)
    console.print(f"written to {path}")
    gates = [checks for result in record["networks"].values() for _, checks in _gates(result)]
    return 0 if all(check["passed"] for checks in gates for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
