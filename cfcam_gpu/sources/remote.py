"""Files by their addresses, ``s3://`` or ``https://`` for example, through fsspec."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Seconds that one request may take, and what each megabyte adds to them.
TIMEOUT = 60.0
PER_MEGABYTE = 1.0
#: Bytes that are read at once from the middle of a file.
BLOCK = 1 << 20
#: Requests at once.
TOGETHER = 16
#: Some file systems have one connection, and what two threads ask of it at once would be mixed up.
_ALONE = threading.Lock()


class Stat(NamedTuple):
    """What is known of a file: its size in bytes, and when it was changed."""

    size: int | None
    changed: str


def is_address(name: str) -> bool:
    """Whether `name` is an address, and not a path of this machine."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name) is not None


def plain(address: str) -> str:
    """An address without its query, in which there may be dots and slashes."""
    return address.partition("?")[0] if address.startswith(("http://", "https://")) else address


def in_this_process(address: str) -> bool:
    """Whether what the address means is in this process alone."""
    return address.startswith("memory://")


def stat(address: str) -> Stat:
    """A file's size, and what tells that it was changed: times and ETags.

    Raises
    ------
    ModuleNotFoundError
        If fsspec is not installed, or what it needs for this kind of address.
    OSError
        If it isn't there, or does not answer in time.
    """
    system, path = _system(address)
    return _told(_ask(system.info, path))


def stats(addresses: Iterable[str]) -> list[Stat | OSError]:
    """The same of many files, several at once; or why it isn't known.

    Raises
    ------
    ModuleNotFoundError
        If fsspec is not installed, or what it needs for this kind of address.
    """

    def one(address: str) -> Stat | OSError:
        try:
            return stat(address)
        except OSError as error:
            return error

    return together(one, list(addresses))


def together(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """What a function that waits for others gives for each item, several at once, in order."""
    with ThreadPoolExecutor(min(TOGETHER, max(1, len(items)))) as pool:
        return list(pool.map(function, items))


def read(address: str, start: int = 0, stop: int | None = None, *, size: int | None = None) -> bytes:
    """A file's bytes, or those from `start` to before `stop`.

    Parameters
    ----------
    address : str
    start, stop : int
        The latter None: to the end.
    size : int, optional
        In bytes, if it is known: a long file may take longer.

    Raises
    ------
    ModuleNotFoundError
        If fsspec is not installed, or what it needs for this kind of address.
    OSError
        If it isn't there, does not answer in time, or can't be read in parts.
    """
    system, path = _system(address)
    if stop is None:
        data: bytes = _ask(system.cat_file, path, size=size or 0)
        return data
    data = _ask(system.cat_file, path, start, stop, size=stop - start)
    if len(data) != stop - start:
        raise OSError(f"its server gives {len(data):,} bytes where {stop - start:,} of its middle are asked for")
    return data


def opened(address: str) -> IO[bytes]:
    """A file that can be read from any place.

    Raises
    ------
    ModuleNotFoundError
        If fsspec is not installed, or what it needs for this kind of address.
    OSError
        If it isn't there, does not answer in time, or its size isn't told.
    """
    size = stat(address).size
    if size is None:
        raise OSError("its server does not tell its size, so that it can't be read in parts")
    return io.BufferedReader(_Ranges(address, size), BLOCK)


def find(address: str) -> tuple[str, dict[str, Stat]]:
    """The files in a folder and below it, or those that fit a pattern.

    Returns
    -------
    root : str
        The address of the folder, or of the part of the pattern before its first star.
    files : dict of str to Stat
        By name relative to it, in order.

    Raises
    ------
    ModuleNotFoundError
        If fsspec is not installed, or what it needs for this kind of address.
    OSError
        If there are none, or nobody answers in time.
    """
    pattern = "*" in address
    root = address[: address.index("*")].rpartition("/")[0] if pattern else address.rstrip("/")
    system, path = _system(address)
    found = _ask(system.glob if pattern else system.find, path, detail=True)
    # A file system may write addresses otherwise.
    above = _system(root)[1].rstrip("/") + "/"
    files = {
        name.removeprefix(above): known
        for name, known in sorted(found.items())
        if known.get("type", "file") == "file" and name.startswith(above)
    }
    if not files:
        raise FileNotFoundError(f"source: {address} does not exist, or has no files")
    # A web server's list of a folder has names alone.
    unknown = [name for name, known in files.items() if known.get("size") is None]
    asked = dict(zip(unknown, stats(f"{root}/{name}" for name in unknown)))
    stated = {name: asked.get(name) or _told(known) for name, known in files.items()}
    return root, {name: Stat(None, str(one)) if isinstance(one, OSError) else one for name, one in stated.items()}


class _Ranges(io.RawIOBase):
    """A file of which only what is asked for is fetched."""

    def __init__(self, address: str, size: int) -> None:
        self._address, self._size, self._at = address, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        if count:
            view[:count] = read(self._address, self._at, self._at + count)
            self._at += count
        return count


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the address without its name."""
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"source: fsspec is not installed, which reads {address}; pip install 'cfcam-gpu[remote]'"
        ) from None
    try:
        system, path = url_to_fs(address)
    except ImportError as error:
        raise ModuleNotFoundError(f"source: {address} can't be read: {error}") from None
    except ValueError as error:
        raise OSError(f"source: {address} can't be read: {error}") from None
    return system, path


def _ask(function: Callable[..., Any], *args: Any, size: int = 0, **options: Any) -> Any:
    """What a file system answers; whatever it raises is an OSError that says why, without the address."""
    several = asyncio.iscoroutinefunction(getattr(function, "__wrapped__", None))
    if several:
        options["timeout"] = TIMEOUT + PER_MEGABYTE * size / 1e6
    try:
        with nullcontext() if several else _ALONE:
            return function(*args, **options)
    except TimeoutError:
        raise OSError(f"no answer within {options.get('timeout', TIMEOUT):.0f} seconds") from None
    except FileNotFoundError:
        raise FileNotFoundError("does not exist") from None
    except Exception as error:  # each file system has its own
        raise OSError(str(getattr(error, "strerror", None) or error) or type(error).__name__) from error


def _told(known: dict[str, Any]) -> Stat:
    names = ("ETag", "etag", "LastModified", "Last-Modified", "mtime", "updated", "last_modified", "created")
    return Stat(known.get("size"), " ".join(str(known[name]) for name in names if known.get(name) is not None))
