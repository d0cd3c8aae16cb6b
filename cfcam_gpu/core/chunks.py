"""How much work is done at once within a memory budget, and who hears how much is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Called with (done, total) after each step of long work.
Progress: TypeAlias = Callable[[int, int], None]

#: Bytes that activations of one chunk may take where the caller names no budget: 1 GiB.
DEFAULT_MEMORY = 1 << 30


def chunk_size(memory: int, bytes_each: int) -> int:
    """How many items of `bytes_each` fit into `memory`, at least 1.

    Raises
    ------
    ValueError
        If `memory` is not a positive number of bytes.
    """
    if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
        raise ValueError(f"memory: expected a positive number of bytes; got {memory!r}")
    return max(1, memory // max(1, bytes_each))
