"""An activation replaced on its way through the model, and copies of an image that are worked on once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..hooks import own_thread
from ..hooks.target_layer import TargetLayer
from ..targets.outputs import first_tensor, with_first_tensor


@contextmanager
def substituted(layer: TargetLayer, activation: torch.Tensor) -> Iterator[None]:
    """Inside, the model goes on from `layer` with `activation` instead of its own.

    The hook answers the calling thread alone, and is gone afterwards.

    Parameters
    ----------
    layer : TargetLayer
        With its layout, as a capture found it.
    activation : (N, C, h, w) tensor
        N need not be the batch size of what enters the model. Class and register tokens stay the model's own.
    """
    layout = layer.layout
    assert layout is not None

    def replace(value: Any) -> Any:
        own = first_tensor(value)
        assert own is not None
        return with_first_tensor(value, layout.from_maps(activation, own))

    with own_thread.hooked([layer.hook(replace)]):
        yield


@contextmanager
def first_copy_only(model: nn.Module, copies: torch.Tensor) -> Iterator[None]:
    """Inside, innermost modules that are given `copies`, or a view of them, get the first one alone.

    What they make of it has a batch of one and broadcasts to the others. The model itself sees the whole batch, since
    many write its size into the shape of their logits.

    Parameters
    ----------
    model : torch.nn.Module
    copies : (N, ...) tensor
        One image, expanded: all copies are the same memory.
    """
    memory = copies.untyped_storage().data_ptr()

    def first(value: Any) -> Any:
        same = isinstance(value, torch.Tensor) and value.ndim > 0 and value.untyped_storage().data_ptr() == memory
        return value[:1] if same and value.stride(0) == 0 else value

    def thin(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(first(value) for value in args)

    innermost = [module for _, module in own_thread.hookable(model) if next(module.children(), None) is None]
    with own_thread.hooked(own_thread.before(module, thin) for module in innermost):
        yield
