"""A thread that gathers batches into shards and writes them, while the next are explained."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..sources.photographs import Batch
from .found import Found
from .rows import Columns, columns
from .store import Store, combined

#: Batches that wait for the thread at most; then the explaining waits.
WAITING = 4
#: Seconds between two looks whether the thread has ended.
_PAUSE = 0.01


class _Task(NamedTuple):
    found: Found
    batch: Batch  # without its images
    event: torch.cuda.Event | None


class Writer:
    """Use as a context. Leaving it writes what there is; by an exception, the shards that are whole.

    A KeyboardInterrupt on leaving drops what waits to be written. However often that comes, nothing is written any more
    when the context has been left.

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
        # Simple queues alone: an interrupt leaves the locks of others as they are at the moment, for ever.
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(WAITING):
            self._room.put(None)
        self._fault: BaseException | None = None
        self._cut_short = self._dropped = self._ended = False
        self._shard: _Shard | None = None
        self._thread = threading.Thread(target=self._work, name="cfcam-writer")

    def __enter__(self) -> Writer:
        try:
            self._thread.start()
        except BaseException:
            self._tasks.put(None)  # it may have started
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        interrupt: KeyboardInterrupt | None = None
        while not self._ended:
            try:
                self._cut_short = kind is not None or interrupt is not None
                self._dropped = interrupt is not None
                self._tasks.put(None)
                # Not by Thread.join: an interrupt has Python take the thread for one that has ended.
                while not self._ended:
                    time.sleep(_PAUSE)
            except KeyboardInterrupt as again:
                interrupt = again
        if kind is None:
            if interrupt is not None:
                raise interrupt
            self._raise()

    def put(self, found: Found, batch: Batch) -> None:
        """Hand over a batch; waits while too many wait already.

        Parameters
        ----------
        found : Found
            On whichever device.
        batch : Batch
            What it was found of; its images aren't needed. Batches come in the order of their images, those of a shard
            all of them.

        Raises
        ------
        OSError
            If an earlier one could not be written.
        """
        self._raise()
        event = torch.cuda.current_stream(found.maps.device).record_event() if found.maps.is_cuda else None
        self._room.get()
        self._tasks.put(_Task(found, batch._replace(images=torch.empty(0)), event))

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                # After a fault what comes is dropped, so that nobody waits for room.
                if self._fault is None and not self._dropped:
                    self._try(partial(self._take, task))
                self._room.put(None)
            if self._fault is None and not self._cut_short:
                self._try(self._flush)
        finally:
            self._ended = True

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as fault:
            self._fault = fault

    def _take(self, task: _Task) -> None:
        found = _on_host(task)
        number = task.batch.index // self._store.shard_size
        if self._shard is not None and self._shard.number != number:
            self._flush()
        if self._shard is None:
            self._shard = _Shard(self._store, number, found)
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

    def __init__(self, store: Store, number: int, found: Found) -> None:
        maps = found.maps.numpy()
        self.number = number
        self.maps: NDArray[np.generic] = np.empty((store.shard_size, *maps.shape[1:]), maps.dtype)
        self.count = 0
        self.rows: Columns = {}
        self.overlays: list[NDArray[np.uint8]] | None = None
        self.digests: list[str] = []

    def add(self, found: Found, batch: Batch, class_names: Sequence[str] | None) -> None:
        count = len(found.errors)
        self.maps[self.count : self.count + count] = found.maps.numpy()
        for name, values in columns(found, batch, class_names=class_names).items():
            self.rows.setdefault(name, []).extend(values)
        if found.overlays is not None:
            self.overlays = [*(self.overlays or ()), *found.overlays.numpy()]
        self.count += count
        self.digests.append(batch.digest)

    def write(self, store: Store) -> None:
        maps, digest = self.maps[: self.count], combined(self.digests)
        store.write(self.number, maps, self.rows, overlays=self.overlays, digest=digest)


def _on_host(task: _Task) -> Found:
    if task.event is None:
        return task.found.to_host()
    device = task.found.maps.device
    # A stream of its own: a copy must not wait for the batches that were launched after this one.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_event(task.event)
    with torch.cuda.stream(stream):
        return task.found.to_host()
