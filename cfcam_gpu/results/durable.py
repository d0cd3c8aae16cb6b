"""Files that are whole or not there, also after a power cut."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Iterable, Iterator
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
        with naming(path):
            file = os.open(part, how, 0o666)
            try:
                put(file, data)
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(part, path)
    except BaseException:
        if os.path.lexists(part):
            os.unlink(part)
        raise
    if last:
        sync(path.parent)


def put(file: int, data: bytes | memoryview) -> None:
    """Write all of the bytes to a file by its number; a disk that gets full takes a part of them, without an error."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(file, rest) :]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the system's errors name `path` where they name no file: a full disk is told of a file's number.

    Raises
    ------
    OSError
        What was raised, with the name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A name to write a file or a folder to, which takes the place of `path` when it is whole and on the disk."""
    part = path.with_name(f".{path.name}.part")
    remove(part)
    with naming(path):
        yield part
    for there in [*part.rglob("*"), part]:
        if there.is_dir():
            sync(there)
        else:
            with open(there, "rb") as file:
                os.fsync(file.fileno())
    if path.is_dir():
        remove(path)
    os.replace(part, path)
    sync(path.parent)


def update(path: Path, parts: Iterable[tuple[int, memoryview]]) -> None:
    """Write parts of a file that is there, each from a byte on; they are on the disk when this returns.

    Parameters
    ----------
    path : Path
    parts : iterable of (int, memoryview)

    Raises
    ------
    OSError
        If it can't be written; some of the parts may be.
    """
    with naming(path), open(path, "r+b", buffering=0) as file:
        for first, data in parts:
            file.seek(first)
            put(file.fileno(), data)
        os.fsync(file.fileno())


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
