"""Processes that read for this one."""

from __future__ import annotations

import errno
import itertools
import signal
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from ..image_files import reading
from . import instances
from .files import Files
from .items import Item
from .readers import Part, Reader

#: Headers that are read at once; of more, worker processes read them.
MANY = 256
#: What to do where the shared memory is too small.
_REMEDY = (
    "give fewer workers or a smaller batch size, read in the main process with workers=0 (--workers 0), or make "
    "/dev/shm larger (docker run --shm-size 2g)"
)


def loaded(
    reader: Reader | _Headers, parts: Iterable[Part], workers: int, *, pin_memory: bool = False
) -> Iterator[Any]:
    """What a reader makes of each part, in order.

    Parameters
    ----------
    reader : Reader, or another that reads parts
    parts : iterable of Part
    workers : int
        Processes that read; 0 reads in this one.
    pin_memory : bool
        Have the images in memory that a GPU copies from while the host goes on.

    Raises
    ------
    OSError
        If the shared memory does not hold what the workers read; the message says what to do.
    RuntimeError
        If a worker dies.
    """
    loader = DataLoader(
        _Sharing(reader) if workers else reader,
        # The sampler hands each batch's items to a worker: none holds the list of all.
        sampler=_Plan(parts),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_begin,
    )
    try:
        for found in _translated(loader) if workers else loader:
            if isinstance(found, _Full):
                needed = f"the {found.size / 1e6:,.2f} MB of a batch beside those that wait"
                raise OSError(errno.ENOSPC, f"the shared memory is too small for {needed}: {_REMEDY}")
            yield found
    finally:
        reader.close()


def _translated(found: Iterable[Any]) -> Iterator[Any]:
    """The same, and what a loader raises by itself in words that say what to do."""
    try:
        yield from found
    except (OSError, EOFError, RuntimeError) as error:
        if "Original Traceback" in str(error):  # what a worker raised
            raise
        if getattr(error, "errno", None) == errno.ENOSPC:  # its queues are there, too
            raise OSError(errno.ENOSPC, f"the shared memory is too small: {_REMEDY}") from error
        # A worker may be gone while what it shares is fetched.
        died = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))
        if not died and "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(f"a process that reads images has died: {_death(str(error))}") from error


def framed(files: Files, items: list[Item], workers: int, unreadable: list[instances.Unreadable]) -> list[Item]:
    """Items with those of DICOM by their frames; see :func:`cfcam_gpu.sources.instances.framed`.

    Parameters
    ----------
    files : Files
    items : list of Item
    workers : int
        Processes that read headers, where there are many.
    unreadable : list of Unreadable
        Gets files of DICOM that can't be read.

    Raises
    ------
    RuntimeError
        If a worker dies.
    """
    may = [at for at, item in enumerate(items) if instances.may_be(item)]
    parts = [Part(0, [items[at] for at in may[start : start + MANY]]) for start in range(0, len(may), MANY)]
    found = loaded(_Headers(files), parts, workers if len(parts) > 1 else 0)
    frames = dict(zip(may, itertools.chain.from_iterable(found)))
    for at, each in frames.items():
        unreadable += [instances.Unreadable(one.source, items[at].source, one.error) for one in each if one.error]
    return [one for at, item in enumerate(items) for one in frames.get(at, [item])]


class _Headers(Dataset[Any]):
    """Reads the headers of files of DICOM."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def __getitem__(self, part: Part) -> list[list[Item]]:
        return instances.framed(self.files, part.items)

    def close(self) -> None:
        self.files.close()


class _Plan(Sampler[Part]):
    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)


class _Full:
    """What a worker gives where the shared memory is full."""

    def __init__(self, size: int) -> None:
        self.size = size


class _Sharing(Dataset[Any]):
    """Moves images to the shared memory while its errors can be seen: torch does it in a thread that nobody hears."""

    def __init__(self, reader: Reader | _Headers) -> None:
        self.reader = reader

    def __getitem__(self, part: Part) -> Any:
        found = self.reader[part]
        images = getattr(found, "images", None)
        if images is not None:
            try:
                images.share_memory_()
            except RuntimeError:
                return _Full(images.nbytes)
        return found


def _death(said: str) -> str:
    if "Bus error" in said:
        return f"the shared memory is too small: {_REMEDY}"
    return f"{said}; where the system killed it, as memory ran out, give fewer workers or a smaller batch size"


def _begin(worker: int) -> None:
    """In a worker: signals that a whole group of processes gets are the main process's, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The second one ends it: the main process's own, where it does not end by itself.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    reading.quiet()


def _as_it_is(batch: Any) -> Any:
    return batch
