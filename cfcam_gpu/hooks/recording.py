"""A forward whose graph is recorded to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import torch
from torch import nn
from torch.autograd.graph import Node, saved_tensors_hooks

from .guard import guarded, noted
from .places import own_numbers

Result = TypeVar("Result")


def recorded(model: nn.Module, images: torch.Tensor, forward: Callable[[torch.Tensor, Node | None], Result]) -> Result:
    """What `forward` returns of a copy of the images, and of its place in autograd's graph.

    It may be called twice: what some models do in place, or with NumPy, can't be recorded. Then there is no graph.

    Raises
    ------
    Exception
        What `forward` raises.
    """
    try:
        return _run(model, images, forward, graph=True)
    except RuntimeError:
        return _run(model, images, forward, graph=False)


def _run(
    model: nn.Module, images: torch.Tensor, forward: Callable[[torch.Tensor, Node | None], Result], *, graph: bool
) -> Result:
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        given = images.detach().clone().requires_grad_(graph).clone()
    with ExitStack() as around:
        around.enter_context(guarded(model))
        around.enter_context(noted(model, images))
        around.enter_context(own_numbers(model, images))
        around.enter_context(torch.set_grad_enabled(graph))
        # What a backward would need isn't kept, but for weights, whose shapes are looked at.
        around.enter_context(saved_tensors_hooks(_parameter, _kept))
        return forward(given, given.grad_fn)


def _parameter(saved: torch.Tensor) -> nn.Parameter | None:
    return saved if isinstance(saved, nn.Parameter) else None


def _kept(saved: nn.Parameter | None) -> torch.Tensor:
    if saved is None:
        raise RuntimeError("no backward goes through this graph")
    return saved
