"""Batches that fail: what an image may be to blame for, and what must end the work instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

#: What an image, or the size of its batch, may be to blame for: an unreadable file, non-finite activations, a class out
#: of range, a model's own error, memory that runs out.
FAILURES = (TypeError, ValueError, RuntimeError, MemoryError)
#: Those of memory: the device's, and the host's or what RAPIDS and CuPy ask for by themselves.
OUT_OF_MEMORY = (torch.cuda.OutOfMemoryError, MemoryError)
#: How the error begins that torch raises in the main thread, wherever that is, when a process that reads has died.
_DEAD_READER = "DataLoader worker (pid"

#: Some of the items, and what was found of them or why it was not.
Part: TypeAlias = tuple[Sequence[Item], Result | Exception]


def attempt(work: Callable[[], Result], device: torch.device) -> Result | Exception:
    """What `work` returns, or the error that an image may be to blame for.

    Raises
    ------
    RuntimeError
        If the device is out of order, so that whatever comes would fail, or a process that reads has died.
    """
    try:
        return work()
    except FAILURES as error:
        if str(error).startswith(_DEAD_READER):
            raise
        # Its traceback would keep the tensors of the call alive.
        fault = error.with_traceback(None)
    check(device)
    return fault


def check(device: torch.device) -> None:
    """Wait for a device; raises where its own state is what is wrong, as after an illegal access of a CUDA kernel."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def together_or_alone(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], device: torch.device
) -> Iterator[Part[Item, Result]]:
    """What `work` makes of all items at once; where that fails, of each by itself, so that one costs no other its map.

    Parameters
    ----------
    work : callable
        Gets some of the items.
    items : sequence
        One of them at least.
    device : torch.device
        Where the work is done.

    Yields
    ------
    part : tuple
        Some of the items, and what `work` returned of them; of a single one maybe the error instead.

    Raises
    ------
    RuntimeError
        As :func:`attempt`.
    """
    found = attempt(lambda: work(items), device)
    if len(items) == 1 or not isinstance(found, Exception):
        yield items, found
        return
    del found  # the batch's tensors may hang on what the error came from
    for item in items:
        yield [item], attempt(lambda alone=[item]: work(alone), device)  # type: ignore[misc]


def reason(error: Exception) -> str:
    """Why, for people: some errors say nothing but what they are."""
    return str(error) or type(error).__name__
