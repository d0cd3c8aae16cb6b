"""What is computed at once while a graph is traced, instead of going into it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import torch
from torch._dispatch.python import no_python_dispatcher
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes

T = TypeVar("T")


def at_once(make: Callable[[], T]) -> T:
    """What ``make`` returns, computed outside of all tracing."""
    with ExitStack() as outside:
        # Neither functions' modes, transformations, Python's operators, fake tensors, the graph nor autograd see it.
        outside.enter_context(torch._C.DisableTorchFunction())
        outside.enter_context(torch._C._DisableFuncTorch())
        for each in (no_python_dispatcher(), unset_fake_temporarily(), _disable_current_modes(), torch.no_grad()):
            outside.enter_context(each)
        return make()


def constant(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A tensor that ``make`` returns: the graph gets its values."""
    return at_once(lambda: make().contiguous())
