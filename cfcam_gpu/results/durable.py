"""Files that are whole or not there, also after a power cut."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, last: bool = True) -> Iterator[IO[bytes]]:
    """A file in memory, which takes the place of `path` when it is complete, whoever else writes there: :func:`write`.

    If the block raises, nothing is written.
    """
    file = io.BytesIO()
    yield file
    write(path, file.getbuffer(), alone=False, last=last)


def write(path: Path, data: bytes | memoryview, *, alone: bool = True, last: bool = True) -> None:
    """Put a file in its place at once, replacing what is there; it is on the disk when this returns.

    Parameters
    ----------
    path : Path
    data : bytes or memoryview
    alone : bool
        Whether no other process writes to the folder. The temporary name is then always the same, so that what a killed
        process left is written over by the next; otherwise it is one of its own.
    last : bool
        False where more files of the same folder follow, the last of which tells of them: its name takes theirs to the
        disk. Until then a power cut may leave what was there before, but no half of a file.

    Raises
    ------
    OSError
        If it can't be written; what was there is still there.
    """
    part = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{secrets.token_hex(4)}.part")
    how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if alone else os.O_EXCL) | getattr(os, "O_BINARY", 0)
    try:
        file = os.open(part, how, 0o666)
        try:
            rest = memoryview(data)
            while len(rest):
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(part, path)
    except BaseException as error:
        if os.path.lexists(part):
            os.unlink(part)
        if isinstance(error, OSError) and error.filename is None:  # a full disk is told of a file's number
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    if last:
        sync(path.parent)


def folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are not there yet."""
    if not os.path.isdir(path):
        folder(path.parent)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):  # another process may have made it meanwhile
                raise
        sync(path.parent)
    return path


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it, so that it doesn't come back after a power cut."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            remove(path / name)
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)
    else:
        return
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a folder's names on the disk. Windows keeps them itself, and opens no folder; some file servers do, too."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(descriptor)
