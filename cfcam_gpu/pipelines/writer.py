"""A thread that gathers batches into shards and writes them, while the next are explained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Queue
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .batches import Found
from .rows import Columns, columns
from .sources import Batch
from .store import Store

#: Batches that wait for the thread at most; then the explaining waits.
WAITING = 4


class _Task(NamedTuple):
    found: Found
    batch: Batch  # without its images
    event: torch.cuda.Event | None


class Writer:
    """Use as a context. Leaving it writes what there is; by an exception, the shards that are whole.

    Parameters
    ----------
    store : Store
    class_names : sequence of K str, optional
    done : callable
        Called in the thread after each shard that is written.
    """

    def __init__(self, store: Store, *, class_names: Sequence[str] | None, done: Callable[[], object]) -> None:
        self._store = store
        self._class_names = class_names
        self._done = done
        self._queue: Queue[_Task | None] = Queue(WAITING)
        self._fault: BaseException | None = None
        self._cut_short = False
        self._shard: _Shard | None = None
        self._thread = threading.Thread(target=self._work, name="cfcam-writer")

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._cut_short = kind is not None
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, found: Found, batch: Batch) -> None:
        """Hand over a batch; waits while too many wait already.

        Parameters
        ----------
        found : Found
            On whichever device.
        batch : Batch
            What it was found of; its images aren't needed.

        Raises
        ------
        OSError
            If an earlier one could not be written.
        """
        self._raise()
        event = torch.cuda.current_stream(found.maps.device).record_event() if found.maps.is_cuda else None
        self._queue.put(_Task(found, batch._replace(images=torch.empty(0)), event))

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            # After a fault what comes is dropped, so that nobody waits for room.
            if self._fault is None:
                self._try(partial(self._take, task))
        if self._fault is None and not self._cut_short:
            self._try(self._flush)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as fault:
            self._fault = fault

    def _take(self, task: _Task) -> None:
        found = _on_host(task)
        if self._shard is None:
            self._shard = _Shard(self._store, found)
        self._shard.add(found, task.batch, self._class_names)
        if self._shard.count == self._store.shard_size:
            self._flush()

    def _flush(self) -> None:
        if self._shard is not None:
            self._shard.write(self._store)
            self._shard = None
            self._done()


class _Shard:
    """One that fills up."""

    def __init__(self, store: Store, found: Found) -> None:
        maps = found.maps.numpy()
        self.maps: NDArray[np.generic] = np.empty((store.shard_size, *maps.shape[1:]), maps.dtype)
        self.first = store.images
        self.count = 0
        self.rows: Columns = {}
        self.overlays: list[NDArray[np.uint8]] | None = None
        self.digest = ""

    def add(self, found: Found, batch: Batch, class_names: Sequence[str] | None) -> None:
        count = len(found.errors)
        self.maps[self.count : self.count + count] = found.maps.numpy()
        rows = columns(found, batch.sources, batch.sizes, first=self.first + self.count, class_names=class_names)
        for name, values in rows.items():
            self.rows.setdefault(name, []).extend(values)
        if found.overlays is not None:
            self.overlays = [*(self.overlays or ()), *found.overlays.numpy()]
        self.count += count
        self.digest = batch.digest

    def write(self, store: Store) -> None:
        store.write(self.maps[: self.count], self.rows, overlays=self.overlays, digest=self.digest)


def _on_host(task: _Task) -> Found:
    if task.event is None:
        return task.found.to_host()
    device = task.found.maps.device
    # A stream of its own: a copy must not wait for the batches that were launched after this one.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_event(task.event)
    with torch.cuda.stream(stream):
        return task.found.to_host()
