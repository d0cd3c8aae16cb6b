"""Files by their names, of this machine or of others: opened, unpacked, and what is known of them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Sequence
from typing import IO, Any, Protocol

from . import remote
from .remote import Stat

#: What unpacks a file while it is read, by its suffix. All of them read forwards only: a step back begins anew.
_UNPACKED: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".tbz2": bz2.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
}
#: What these raise of damaged files, beside OSError.
DAMAGED = (EOFError, lzma.LZMAError, zlib.error)


class Closing(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Close it."""
        ...


class Files:
    """The files whose names are relative to one folder, or are addresses.

    Parameters
    ----------
    root : str
        A folder of this machine, or an address of fsspec.
    rows : sequence, optional
        Of a data set that has no files.

    Notes
    -----
    One file is kept open, the one that :meth:`kept` was asked for last. A copy for another process has none.
    """

    def __init__(self, root: str, rows: Sequence[Any] | None = None) -> None:
        self.root = root
        self.rows = rows
        self._kept: tuple[str, Closing] | None = None

    def __getstate__(self) -> dict[str, object]:
        # Another process may work in another folder.
        root = self.root if remote.is_address(self.root) else os.path.abspath(self.root)
        return {"root": root, "rows": self.rows, "_kept": None}

    def path(self, name: str) -> str:
        """The whole path or address of a file."""
        if remote.is_address(name):
            return name
        return f"{self.root.rstrip('/')}/{name}" if remote.is_address(self.root) else os.path.join(self.root, name)

    def plain(self, name: str) -> str:
        """A file's name without the query of its address, for its suffix and its folder."""
        path = self.path(name)
        return name[: len(name) - len(path) + len(remote.plain(path))]

    def stat(self, name: str) -> Stat:
        """What is known of a file.

        Raises
        ------
        OSError, ValueError
            If it isn't there, say; the latter of a name that no file can have.
        """
        path = self.path(name)
        if remote.is_address(path):
            return remote.stat(path)
        found = os.stat(path)
        return Stat(found.st_size, str(found.st_mtime_ns))

    def read(self, name: str, *, size: int | None = None) -> bytes:
        """All of a file, of `size` bytes, if that is known.

        Raises
        ------
        OSError, ValueError
            If it can't be read.
        """
        path = self.path(name)
        if remote.is_address(path):
            return remote.read(path, size=size)
        check_regular(path)
        with open(path, "rb") as file:
            return file.read()

    def open(self, name: str) -> IO[bytes]:
        """A file from its beginning, unpacked where its suffix says that it is packed.

        Raises
        ------
        OSError, ValueError
            If it can't be read.
        """
        path = self.path(name)
        unpacked = _UNPACKED.get(os.path.splitext(self.plain(name))[1].lower())
        if remote.is_address(path):
            file = remote.opened(path)
            return file if unpacked is None else unpacked(file)
        check_regular(path)
        return open(path, "rb") if unpacked is None else unpacked(path)

    def kept(self, name: str, opening: Callable[[IO[bytes]], Closing]) -> Any:
        """What `opening` makes of a file, left open for the next that asks: what is packed is gone through once.

        Raises
        ------
        OSError, ValueError
            If it can't be read.
        """
        if self._kept is None or self._kept[0] != name:
            self.close()
            self._kept = name, opening(self.open(name))
        return self._kept[1]

    def close(self) -> None:
        """Close what is kept open."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None


def check_regular(path: str) -> None:
    """Refuse what is no file: reading a pipe would wait for ever.

    Raises
    ------
    OSError, ValueError
        If it is none, or can't be looked at.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")


def reason(error: Exception) -> str:
    """What an error says, without the name of the file."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
