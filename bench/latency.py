"""Latency and peak memory of CF-CAM beside its peers and the bare forward, in turn, in one run.

``python -m bench.latency`` measures and writes a JSON file; ``--show FILE`` prints one. See bench/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from cfcam_gpu import __version__
from cfcam_gpu.results import durable

from . import models
from .entries import BARS, CANDIDATES, DEFAULT_NETWORKS, NETWORKS, YARDSTICKS, Call, Candidate, Network, truth

#: Above this share of the cores for other processes, a record says that it is disturbed.
DISTURBED = 0.05
ROOT = Path(__file__).resolve().parents[1]


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the rest of this process; elsewhere nothing happens.

    By default large blocks go back to the kernel, and page faults then take up to half of a forward's time, or none of
    it, depending on what ran before it in the same process. Without them every figure is smaller and the bare forward,
    the yardstick, gains most.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and platform.libc_ver()[0] == "glibc":  # the numbers below are glibc's
        mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped on its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap is never cut


def host_clock(call: Call, images: torch.Tensor) -> float:
    """Milliseconds of a call, on the host's clock."""
    start = time.perf_counter()
    call(images)
    return 1e3 * (time.perf_counter() - start)


def time_in_turn(
    calls: dict[str, Call],
    images: torch.Tensor,
    rounds: int,
    *,
    clock: Callable[[Call, torch.Tensor], float] = host_clock,
    budget_ms: float = math.inf,
) -> dict[str, list[float]]:
    """Milliseconds of each call in each round. A round runs every call once, in an order drawn anew (seeded).

    A fixed order would let each call always inherit the caches and the allocator as one other left them. A call that
    would take more than `budget_ms` in all is in the first rounds only, in at least three.
    """
    most = {}
    for name, call in calls.items():
        call(images)
        most[name] = max(3.0, budget_ms / clock(call, images))
    draw = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()
    try:
        for _ in range(rounds):
            gc.collect()
            for name in draw.sample(list(calls), len(calls)):
                if len(times[name]) < most[name]:
                    times[name].append(clock(calls[name], images))
    finally:
        gc.enable()
    return times


class CoresTime(NamedTuple):
    """Seconds that all cores were busy, that this process was, and that passed times the number of cores."""

    busy: float
    own: float
    passed: float


def cores_time() -> CoresTime | None:
    """Since some fixed time; None without Linux's /proc/stat. Time that a hypervisor gave to others counts as busy."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, *rest = map(int, stat.read_text().splitlines()[0].split()[1:9])
    busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    return CoresTime(busy, time.process_time(), time.monotonic() * (os.cpu_count() or 1))


def taken_by_others(before: CoresTime | None, after: CoresTime | None) -> float | None:
    """The share of the cores' time between two moments that other processes took: what disturbs a measurement."""
    if before is None or after is None:
        return None
    busy, own, passed = (late - early for early, late in zip(before, after))
    return round(max(busy - own, 0.0) / passed, 3)


def peak_of(network: Network, candidate: Candidate, batch: int) -> float | None:
    """MiB by which the peak of resident memory during one call on `batch` images exceeds what was resident before.

    Before: model, images and one call on a single image, so that imports, thread pools and buffers that a peer keeps
    (parameter gradients, say) don't count. None where the kernel doesn't reset the peak (Linux does).
    """
    call = candidate.setup(network, network.build())
    images = models.photographs(batch, network.norm)
    call(images[:1])
    gc.collect()
    # What malloc keeps of freed memory would be used again unseen: hundreds of MiB after the images were made.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _resident("VmRSS")
    call(images)
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    """KiB."""
    return int(re.findall(rf"^{field}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[0])


def measure(network: Network, candidates: list[Candidate], options: argparse.Namespace) -> dict[str, Any]:
    """Gates, then times and memory of the candidates that passed theirs, and what follows from them."""
    keep_freed_memory()
    images = models.photographs(options.batch, network.norm)
    calls = {one.name: one.setup(network, network.build()) for one in candidates}
    true = truth(network, images)
    gates = {one.name: one.check(calls[one.name], true) for one in candidates if one.check}
    passed = [one for one in candidates if all(check.passed for check in gates.get(one.name, []))]
    before = cores_time()
    times = time_in_turn({one.name: calls[one.name] for one in passed}, images, options.rounds)
    disturbed = taken_by_others(before, cores_time())
    del calls, true  # the children that measure memory need it
    memory: dict[str, list[float | None]] = {one.name: [] for one in passed}
    for _ in range(options.memory_repeats):
        for one in passed:
            memory[one.name].append(_peak_in_child(network, one, options.memory_batch))
    figures = {
        "latency_ms": {name: summary(values) for name, values in times.items()},
        "memory_mib": {name: summary(values) for name, values in memory.items() if values and None not in values},
    }
    return {
        "layer": network.layer,
        "peers_module": network.module,
        "note": network.note,
        "candidates": [one.name for one in candidates],
        "gates": {name: [{**c._asdict(), "passed": c.passed} for c in checks] for name, checks in gates.items()},
        **figures,
        "taken_by_others": disturbed,
        "ratios": {figure: ratios(found) for figure, found in figures.items()},
        "bars": judge(figures),
    }


def _peak_in_child(network: Network, candidate: Candidate, batch: int) -> float | None:
    command = [sys.executable, "-m", "bench.latency", "--peak-of", network.name, candidate.name]
    command += ["--memory-batch", str(batch)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def summary(values: list[Any]) -> dict[str, Any]:
    low, middle, high = (round(float(value), 4) for value in np.percentile(values, [25, 50, 75]))
    return {"median": middle, "quartiles": [low, high], "rounds": [round(value, 4) for value in values]}


def ratios(found: dict[str, Any], yardsticks: Sequence[str] = YARDSTICKS) -> dict[str, Any]:
    """Each candidate over each yardstick, round by round.

    A candidate that failed its gate has no figures, so no ratio has it above or below.
    """
    return {
        f"{of} / {over}": summary([a / b for a, b in zip(found[of]["rounds"], found[over]["rounds"])])
        for over in yardsticks
        for of in found
        if over in found and of != over
    }


def judge(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars: the median of the paired ratios, its limit, and whether it is met; None where it wasn't measured."""
    bars = []
    for figure, of, over, limit in BARS:
        found = ratios(figures[figure]).get(f"{of} / {over}")
        value = found and found["median"]
        met = None if value is None else value <= limit
        bars.append({"figure": figure, "of": of, "over": over, "limit": limit, "ratio": value, "met": met})
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


def machine() -> dict[str, Any]:
    """Where this ran."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return {
        "cpu": names[0].strip() if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(candidates: list[Candidate]) -> dict[str, str]:
    """Of all that takes part in the figures."""
    names = ["torch", "numpy", "scipy", "scikit-learn", *(one.package for one in candidates if one.package)]
    found = {name: _version(name) for name in names}
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


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
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
        for column in ("", "gate", "ms", "quartiles", "/ forward", "/ pytorch-grad-cam", "peak MiB", "/ forward"):
            table.add_column(column, justify="left" if column in ("", "gate") else "right")
        for candidate in result["candidates"]:
            table.add_row(*_row(result, candidate))
        console.print(table)
        if result["taken_by_others"] is not None:
            share = result["taken_by_others"]
            hint = " [red](disturbed: measure again on an idle machine)[/]" if share > DISTURBED else ""
            console.print(f"  other processes took {share:.1%} of the cores while times were taken{hint}")
        for bar in result["bars"]:
            verdict = {True: "[green]met[/]", False: "[red]NOT met[/]", None: "[yellow]not measured[/]"}[bar["met"]]
            value = "-" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
            console.print(
                f"  {bar['figure']}: {bar['of']} / {bar['over']} = {value}, at most {bar['limit']}: {verdict}"
            )
        for candidate, checks in result["gates"].items():
            for check in checks:
                if not check["passed"]:
                    console.print(
                        f"  [red]gate of {candidate} failed[/]: {check['what']}: {check['difference']:.3g}, at most "
                        f"{check['tolerance']:g}; its figures are withheld"
                    )


def to_json(record: dict[str, Any]) -> str:
    """Indented, but with each list of numbers on one line: twenty rounds would fill a page otherwise."""
    text = json.dumps(record, indent=1)
    return re.sub(r"\[[\d\s.,e+-]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


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
        over("latency_ms", "forward"),
        over("latency_ms", "pytorch-grad-cam"),
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
    parser.add_argument("--memory-batch", type=int, default=32)
    parser.add_argument("--memory-repeats", type=int, default=3, help="0 measures no memory")
    parser.add_argument("--without-peers", action="store_true", help="only ours and the bare forward")
    parser.add_argument("--peak-of", nargs=2, metavar=("NETWORK", "CANDIDATE"), help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where a gate failed. A bar that is not met is reported and changes nothing: it is a result."""
    options = _parser().parse_args(arguments)
    console = Console()
    console.width = max(console.width, 120)  # of the tables, whatever the terminal or the log file
    if options.show:
        show(json.loads(options.show.read_text()), console)
        return 0
    if options.peak_of:
        network, candidate = options.peak_of
        print(json.dumps(peak_of(NETWORKS[network], CANDIDATES[candidate], options.memory_batch)))
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
    gates = [checks for result in record["networks"].values() for checks in result["gates"].values()]
    return 0 if all(check["passed"] for checks in gates for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
