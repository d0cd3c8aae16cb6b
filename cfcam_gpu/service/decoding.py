"""Decoding within bounds: in few threads, few pixels at once, and what they took goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Lock
from typing import Generic, TypeVar

from ..image_files import photos

Result = TypeVar("Result")

#: An image of so many pixels leaves enough behind that the allocator is asked to give it back.
LARGE = 4_000_000


class Budget:
    """A number of pixels, of which each image takes its own while it is decoded.

    Parameters
    ----------
    pixels : int
        A larger image takes them all.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = self.free = pixels
        self._changed = Condition()
        # Who came first is served first: small images must not keep a large one waiting for ever.
        self._turn = Lock()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait for `pixels` of the budget, and have them for as long as the context lasts."""
        pixels = min(pixels, self.pixels)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self.free += pixels
                self._changed.notify_all()


class Decoder(Generic[Result]):
    """Decodes encoded images in threads of its own.

    Parameters
    ----------
    threads : int
    pixels : int
        How many may be in flight, as the images' headers have them.
    """

    def __init__(self, threads: int, pixels: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.budget = Budget(pixels)

    async def run(self, decode: Callable[[], Result], data: bytes) -> Result:
        """What `decode` returns, or raises, of an image whose encoded bytes are `data`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._within, decode, data)

    def _within(self, decode: Callable[[], Result], data: bytes) -> Result:
        pixels = in_header(data)
        try:
            with self.budget.taken(pixels):
                return decode()
        finally:
            if pixels >= LARGE:
                give_back()


def in_header(data: bytes) -> int:
    """The pixels of an encoded image as its header has them; 0 of what is no image, which is found out later."""
    try:
        width, height = photos.dimensions(io.BytesIO(data))
    except photos.UnreadableError:
        return 0
    return width * height


def give_back() -> None:
    """Have the C library return free memory to the system: glibc keeps what its threads' arenas have once had."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
