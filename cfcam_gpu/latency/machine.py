"""Where a measurement ran, and whether others disturbed it."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

#: Above this share of the cores for other processes, a measurement is called disturbed.
DISTURBED = 0.05


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


def taken_now(seconds: float = 0.5) -> float | None:
    """The share of the cores' time that other processes take, looked at for so long; None where it can't be told."""
    before = cores_time()
    time.sleep(seconds)
    return taken_by_others(before, cores_time())


def gpu_taken() -> float | None:
    """The share of the last moments in which some process used the GPU; None where torch can't tell."""
    try:
        return torch.cuda.utilization() / 100
    except Exception:  # it asks NVIDIA's library, which may be absent, too old, or refused in a container
        return None


def machine() -> dict[str, Any]:
    """Processor, cores, torch's threads, memory and system."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return {
        "cpu": names[0].strip() if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
