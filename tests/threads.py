"""Work in several threads at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch


def in_threads(work, count):
    """What work(0), work(1) ... return, each in a thread of its own, begun together."""
    begin = Barrier(count)

    def one(index):
        begin.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def on_streams(work, count):
    """The same, each on a CUDA stream of its own, done when they return."""

    def one(index):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = work(index)
        stream.synchronize()
        return found

    return in_threads(one, count)
