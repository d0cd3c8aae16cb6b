"""Hooks that answer the thread alone that put them there: other threads may be in the same model meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

#: Gets the module and its arguments; what it returns, if not None, takes their place.
Before: TypeAlias = Callable[[nn.Module, tuple[Any, ...]], Any]
#: Gets the module, its arguments and its output; what it returns, if not None, takes the output's place.
After: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], Any]


def hookable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model, and their names, but for those of TorchScript: torch has no hooks for these."""
    return ((name, module) for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule))


def before(module: nn.Module, hook: Before) -> RemovableHandle:
    """Have `hook` called before each forward of a module in the calling thread."""
    owner = get_ident()

    # `*rest`: another thread may remove its hook while torch, having read the list, is about to call it.
    def own(module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        return hook(module, args) if get_ident() == owner else None

    return module.register_forward_pre_hook(own)


def before_with_keywords(
    module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
) -> RemovableHandle:
    """As :func:`before`, of arguments by place and by keyword; what `hook` returns is a pair of both."""
    owner = get_ident()

    # Another thread may remove its hook while torch, having read the list, is about to call it, then without keywords.
    def own(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        return hook(module, args, kwargs or {}) if get_ident() == owner else None

    return module.register_forward_pre_hook(own, with_kwargs=True)


def after(module: nn.Module, hook: After) -> RemovableHandle:
    """Have `hook` called after each forward of a module in the calling thread."""
    owner = get_ident()

    def own(module: nn.Module, args: tuple[Any, ...], output: Any, *rest: Any) -> Any:
        return hook(module, args, output) if get_ident() == owner else None

    return module.register_forward_hook(own)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Inside, the hooks of `handles` are there, which may be made one by one; afterwards none of them is."""
    attached: list[RemovableHandle] = []
    try:
        for handle in handles:
            attached.append(handle)
        yield
    finally:
        for handle in attached:
            handle.remove()
