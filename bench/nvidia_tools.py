"""compute-sanitizer and Nsight Compute over the fused engine's kernels, where they are installed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from typing import Any

from . import children, kernel_calls

#: Which shapes each tool watches: racecheck is far slower than the others.
SANITIZERS = {"memcheck": "odd", "racecheck": "few", "synccheck": "odd"}
#: Which shapes Nsight Compute watches.
PROFILED = ("layer4", "layer3")
#: What it reads of each kernel, and what the record calls it.
METRICS = {
    "gpu__time_duration.sum": "ns",
    "dram__bytes.sum": "dram_bytes",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "launch__registers_per_thread": "registers",
}


def sanitize(seconds: float) -> dict[str, Any]:
    """Each of compute-sanitizer's tools over small odd shapes; one absent or not done has not passed, nor failed.

    Parameters
    ----------
    seconds : float
        For all of them.

    Returns
    -------
    dict
        ``passed``: True, False, or None where the tool is not there or not done in time; for each tool the same, with
        the last lines or the reason.
    """
    tool = _find("compute-sanitizer")
    if tool is None:
        return {"passed": None, "reason": "compute-sanitizer is not installed"}
    # Torch's allocator hands out parts of larger blocks, whose ends memcheck does not know.
    environ = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    found: dict[str, Any] = {}
    end = time.monotonic() + seconds
    for name, calls in SANITIZERS.items():
        print(f"gpu-check: compute-sanitizer {name}", flush=True)
        command = [tool, "--tool", name, "--error-exitcode", "9"]
        if name == "memcheck":  # libraries ask for what a driver may lack, and go on without
            command += ["--report-api-errors", "no"]
        share = (end - time.monotonic()) / (len(SANITIZERS) - len(found))  # what one leaves is for the others
        found[name] = _watched(command, calls, environ, max(1.0, share))
    verdicts = [one["passed"] for one in found.values()]
    if False not in verdicts and None in verdicts:
        late = (f"{name} {one['reason']}" for name, one in found.items() if one["passed"] is None)
        return {"passed": None, "reason": "; ".join(late), **found}
    return {"passed": all(verdicts), **found}


def bandwidth(seconds: float) -> dict[str, Any]:
    """What each kernel takes of ResNet-50's last two stages at batch 64, by Nsight Compute: see :func:`parse`.

    ``layer4`` is with the default of one level, ``layer3`` the finer layer of two.
    """
    tool = _find("ncu")
    if tool is None:
        return {"passed": None, "reason": "ncu is not installed"}
    command = [tool, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    command += ["--profile-from-start", "off", "--metrics", ",".join(METRICS)]
    found: dict[str, Any] = {}
    end = time.monotonic() + seconds
    for calls in PROFILED:
        left = (end - time.monotonic()) / (len(PROFILED) - len(found))
        done = _watched(command, calls, dict(os.environ), max(1.0, left), keep=True)
        text = done.pop("output")
        images = kernel_calls.CALLS[calls].shapes[0][0]
        kernels = parse(text, images) if done["passed"] else {}
        if not kernels:  # a driver may keep the counters from ordinary users: no fault of the kernels
            return {"reason": "ncu could not read the counters", **done, "passed": None}
        found[calls] = kernels
    return {"passed": True, **found}


def parse(text: str, images: int) -> dict[str, Any]:
    """Of each kernel in ncu's table: ``launches``; ``us`` and ``mb`` of device memory's traffic an image; means.

    Parameters
    ----------
    text : str
    images : int
        Of the call.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))[1:]  # the first has the units
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for metric, name in METRICS.items():
            if row.get(metric):
                values[row["Kernel Name"]][name].append(float(row[metric].replace(",", "")))
    return {
        kernel: {
            "launches": len(found["ns"]),
            "us": round(sum(found.pop("ns")) / 1e3 / images, 3),
            "mb": round(sum(found.pop("dram_bytes", [])) / 1e6 / images, 3),
            **{name: round(sum(v) / len(v), 1) for name, v in found.items()},
        }
        for kernel, found in values.items()
    }


def _find(tool: str) -> str | None:
    folders = [os.environ.get("PATH", ""), *(f"{os.environ.get(name, '')}/bin" for name in ("CUDA_HOME", "CUDA_PATH"))]
    return shutil.which(tool, path=os.pathsep.join([*folders, "/usr/local/cuda/bin"]))


def _watched(
    command: list[str], calls: str, environ: dict[str, str], seconds: float, *, keep: bool = False
) -> dict[str, Any]:
    command = [*command, sys.executable, "-m", "bench.kernel_calls", calls]
    status, output = children.run(command, environ, seconds)
    kept = {"output": output} if keep else {}
    if status is None:
        return {"passed": None, "reason": f"not done within {seconds:.0f} s", **kept}
    tail = [line for line in output.splitlines() if re.search(r"=====|==ERROR==|Error", line)][-8:]
    return {"passed": status == 0, "last_lines": tail, **kept}
