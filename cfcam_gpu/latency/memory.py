"""The memory that a call takes beyond what was taken before it."""

from __future__ import annotations

import ctypes
import gc
import platform
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from .timing import Call

Result = TypeVar("Result")


def host_peak(call: Call, images: torch.Tensor) -> float | None:
    """MiB by which the peak of resident memory during one call exceeds what was resident before.

    Before: whatever the process has loaded, the images and one call on the first of them, so that imports, thread pools
    and buffers that are kept between calls don't count. None where the kernel doesn't reset the peak (Linux does).

    Parameters
    ----------
    call : callable
    images : (B, C, *size) floating tensor
    """
    call(images[:1])
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        # What malloc keeps of freed memory would be used again unseen: hundreds of MiB after the images were made.
        ctypes.CDLL(None).malloc_trim(0)
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


def cuda_peak(work: Callable[[], object]) -> int:
    """Bytes that torch's allocator hands out for some work beyond what was allocated before it.

    CuPy's memory is torch's inside a call; what cuML allocates for itself does not count.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def in_child(work: Callable[..., Result], *arguments: object) -> Result:
    """What `work` returns in a new process: what others have allocated and loaded is not there.

    Parameters
    ----------
    work : callable
        It, its arguments and its result can be pickled.

    Raises
    ------
    RuntimeError
        If the process died, for want of memory, say. What `work` raises is raised here, too.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
