"""One run at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "job.lock"

#: Folders that runs of this process write to, by device and inode: a record lock keeps out other processes only, and is
#: lost when anyone in this one closes the file.
_held: dict[tuple[int, int], object] = {}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder that is there, be they of this process or of another one of this machine.

    Raises
    ------
    FileExistsError
        If another run is writing to it.
    OSError
        If the lock can't be opened.
    """
    found = os.stat(folder)
    key, mine = (found.st_dev, found.st_ino), object()
    if _held.setdefault(key, mine) is not mine:  # at once: another thread may ask for it now
        raise FileExistsError(f"out: another run of this process is writing to {folder}")
    try:
        with _locked(folder / LOCK):
            yield
    finally:
        del _held[key]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(path, "ab") as file:
        try:
            # A record lock, not flock: the kernel takes it back with this process, whatever children outlive it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise FileExistsError(f"out: another process is writing to {path.parent}") from None
        yield
