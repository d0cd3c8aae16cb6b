"""Threads that work on images side by side, as many as torch has, each of them alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier, Thread
from typing import Any

import torch


def run(work: Callable[..., None], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call `work` with the arguments of each job, side by side.

    One job has all of torch's threads. Of several each has a single one: teams of threads for each would wait for one
    another on the same cores.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            work(*job)
    else:
        for _ in _pool(threads).map(lambda job: work(*job), jobs):
            pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cfcam")
    # torch knows the number of a thread's threads, and one for the threads to come, which a new thread reads. Setting a
    # thread's own changes that, too: a thread of its own puts it back, so that no other thread sees a difference.
    ready = Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()
        ready.wait()
        torch.set_num_threads(1)
        ready.wait()

    def start() -> None:
        to_come = torch.get_num_threads()
        waiting = [pool.submit(alone) for _ in range(threads)]
        ready.wait()
        ready.wait()
        torch.set_num_threads(to_come)
        for one in waiting:
            one.result()

    keeper = Thread(target=start)
    keeper.start()
    keeper.join()
    return pool


if hasattr(os, "register_at_fork"):
    # A forked child has the executor but not its threads, and would wait for them for ever.
    os.register_at_fork(after_in_child=_pool.cache_clear)
