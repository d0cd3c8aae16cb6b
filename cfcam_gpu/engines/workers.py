"""Threads that work on images side by side, as many as torch has, each of them alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock, Thread
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def run(work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]]) -> list[Result]:
    """What `work` returns of the arguments of each job, side by side.

    One job has all of torch's threads. Of several each has a single one: teams of threads for each would wait for one
    another on the same cores.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def done(job: tuple[Any, ...]) -> Result:
        with torch.inference_mode(inference), torch.no_grad():  # a thread's own, as the number of its threads
            return work(*job)

    return list(map(done, jobs) if threads == 1 or len(jobs) == 1 else _pool(threads).map(done, jobs))


_lock = Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            _pools[threads] = _started(threads)
        return _pools[threads]


def _started(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads are there, each with one thread of torch's.

    torch knows the number of a thread's threads, and one for the threads to come, which a new thread reads. Setting a
    thread's own changes that one, too: a thread that ends with it puts it back.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cfcam")
    together = Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # reads the number for the threads to come, which would else come back later
        together.wait()
        torch.set_num_threads(1)
        together.wait()

    def start() -> None:
        to_come = torch.get_num_threads()
        for _ in range(threads):
            pool.submit(alone)
        together.wait()
        together.wait()
        torch.set_num_threads(to_come)

    starter = Thread(target=start)
    starter.start()
    starter.join()
    return pool


def _forget() -> None:
    """A forked child has the executors but not their threads, and would wait for them for ever."""
    global _lock
    _lock = Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
