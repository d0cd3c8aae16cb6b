"""What is copied from the device to the host, by torch's profiler."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def copies_to_host(work: Callable[[], object]) -> list[int]:
    """Bytes of each copy from the device to the host while `work` runs.

    Raises
    ------
    RuntimeError
        If the profiler saw no kernel: then it would have seen no copy either.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a release of the profiler deprecates
        with torch.profiler.profile(activities=activities) as profile:
            work()
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return sizes(json.loads(path.read_text())["traceEvents"])


def sizes(events: list[dict]) -> list[int]:
    """Of the copies to the host among a trace's events."""
    if not any(event.get("cat") == "kernel" for event in events):
        raise RuntimeError("the profiler saw no kernel")
    return [event["args"]["bytes"] for event in events if event.get("name", "").startswith("Memcpy DtoH")]
