"""A step again and again until nothing changes: as a Loop of the runtime, or so many times in a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

State: TypeAlias = tuple[torch.Tensor, ...]


def repeat(step: Callable[..., tuple[State, torch.Tensor]], state: State, times: int | None) -> State:
    """The state after `times` steps, or after as many as it takes.

    Parameters
    ----------
    step : callable
        ``(*state) -> state, going``: the next one, of the same shapes and dtypes, and whether to go on, () bool.
    state : tuple of Tensor
    times : int or None
        None: until `step` says that it is the last.
    """
    if times is not None:
        for _ in range(times):
            state = step(*state)[0]
        return state
    if not torch.compiler.is_compiling():
        going = torch.ones((), dtype=torch.bool)
        while going:
            state, going = step(*state)
        return state

    from torch._higher_order_ops.while_loop import while_loop  # of no release's public interface yet

    def more(going: torch.Tensor, *state: torch.Tensor) -> torch.Tensor:
        return going.clone()

    def body(_: torch.Tensor, *state: torch.Tensor) -> State:
        following, going = step(*state)
        return (going, *(value.clone() for value in following))

    start = torch.ones((), dtype=torch.bool, device=state[0].device), *state
    found: State = while_loop(more, body, start)  # type: ignore[no-untyped-call]
    return found[1:]
