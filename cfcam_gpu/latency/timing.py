"""Calls timed in turn, and what follows from their times."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import platform
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

#: Takes images (B, C, *size); what it returns is not looked at.
Call: TypeAlias = Callable[[torch.Tensor], Any]
#: Milliseconds of a call on images.
Clock: TypeAlias = Callable[[Call, torch.Tensor], float]


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the rest of this process; elsewhere nothing happens.

    By default large blocks go back to the kernel, and page faults then take up to half of a forward's time, or none of
    it, depending on what ran before it in the same process. Without them every figure is smaller and the bare forward,
    the yardstick, gains most.
    """
    if platform.libc_ver()[0] == "glibc":  # the numbers below are glibc's
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped on its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap is never cut


def host_clock(call: Call, images: torch.Tensor) -> float:
    """Milliseconds of a call, on the host's clock."""
    start = time.perf_counter()
    call(images)
    return 1e3 * (time.perf_counter() - start)


def processor_clock(call: Call, images: torch.Tensor) -> float:
    """Milliseconds that the processors spent on a call, all threads of this process together."""
    start = time.process_time()
    call(images)
    return 1e3 * (time.process_time() - start)


def cuda_clock(call: Call, images: torch.Tensor) -> float:
    """Milliseconds between two events on torch's current stream, with an idle device before the first.

    Between them lies all that the stream waits for, the host's part included.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    call(images)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


class Times(NamedTuple):
    """Milliseconds of each call in each round: on the clock, and of the processors, all threads together."""

    clock: dict[str, list[float]]
    processor: dict[str, list[float]]


def times_in_turn(
    calls: Mapping[str, Call],
    images: torch.Tensor,
    rounds: int,
    *,
    clock: Clock = host_clock,
    budget_ms: float = math.inf,
) -> Times:
    """Times of each call in each round. A round runs every call once, in an order drawn anew (seeded).

    A fixed order would let each call always inherit the caches and the allocator as one other left them. A call that
    would take more than `budget_ms` in all is in the first rounds only, in at least three.

    Parameters
    ----------
    calls : mapping of str to callable
        Each is run twice before anything counts.
    images : (B, C, *size) floating tensor
    rounds : int
    clock : callable
    budget_ms : float
    """
    most = {}
    for name, call in calls.items():
        call(images)
        most[name] = max(3.0, budget_ms / clock(call, images))
    draw = random.Random(0)
    times = Times({name: [] for name in calls}, {name: [] for name in calls})
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            gc.collect()
            for name in draw.sample(list(calls), len(calls)):
                if len(times.clock[name]) < most[name]:
                    start = time.process_time()
                    times.clock[name].append(clock(calls[name], images))
                    times.processor[name].append(1e3 * (time.process_time() - start))
    finally:
        if collects:
            gc.enable()
    return times


def first_calls(make: Callable[[], Call], images: torch.Tensor, repeats: int, clock: Clock) -> dict[str, Any]:
    """The first call of something new beside its third.

    Parameters
    ----------
    make : callable
        Returns a call that has not been called.
    images : (B, C, *size) floating tensor
    repeats : int
        How many new ones; one more before them, so that no first use of a library counts, is not measured.
    clock : callable

    Returns
    -------
    dict
        ``first_ms`` and ``later_ms``, and ``ratio``, each a :func:`summary`.
    """
    make()(images)
    first, later = [], []
    for _ in range(repeats):
        call = make()
        first.append(clock(call, images))
        call(images)
        later.append(clock(call, images))
    ratio = [one / other for one, other in zip(first, later)]
    return {"first_ms": summary(first), "later_ms": summary(later), "ratio": summary(ratio)}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, and all values, by round."""
    low, middle, high = (round(float(value), 4) for value in np.percentile(values, [25, 50, 75]))
    return {"median": middle, "quartiles": [low, high], "rounds": [round(value, 4) for value in values]}


def with_tails(values: Sequence[float]) -> dict[str, Any]:
    """A :func:`summary` with the percentiles ``p95`` and ``p99``."""
    tails = {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (95, 99)}
    return summary(values) | tails


def ratios(found: Mapping[str, Any], yardsticks: Sequence[str]) -> dict[str, Any]:
    """Each candidate's :func:`summary` over each yardstick's, round by round.

    A candidate that failed its gate has no figures, so no ratio has it above or below.
    """
    return {
        f"{of} / {over}": summary([a / b for a, b in zip(found[of]["rounds"], found[over]["rounds"])])
        for over in yardsticks
        for of in found
        if over in found and of != over
    }


def to_json(found: Mapping[str, Any]) -> str:
    """Indented, but with each list of numbers on one line: twenty rounds would fill a page otherwise."""
    text = json.dumps(found, indent=1)
    return re.sub(r"\[[\d\s.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"
