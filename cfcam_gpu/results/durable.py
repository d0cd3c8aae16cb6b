"""Files that are whole or not there, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes | memoryview) -> None:
    """Put a file in its place at once, replacing what is there; it is on the disk when this returns.

    Its temporary name is always the same, so that what a killed process left is written over by the next.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        try:
            rest = memoryview(data)
            while len(rest):
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(part, path)
    except BaseException:
        if os.path.lexists(part):
            os.unlink(part)
        raise
    sync(path.parent)


def folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are not there yet."""
    if not os.path.isdir(path):
        folder(path.parent)
        os.mkdir(path)
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
    """Have a folder's names on the disk. Windows keeps them itself, and opens no folder."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
