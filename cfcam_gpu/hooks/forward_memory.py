"""How many images go through a model at once within a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..targets.outputs import first_tensor
from . import own_thread


def forward_bytes(model: nn.Module, run: Callable[[], Any], batch: int) -> int:
    """Bytes that each of `batch` images takes at the peak of a forward without a graph.

    Without a graph an activation lives until its reader is done, so the peak is near the largest input and output of
    one module. It is doubled for what is kept beside them: residuals and the workspace of a convolution.

    Parameters
    ----------
    model : torch.nn.Module
    run : callable
        Runs the forward that is measured, without arguments.
    batch : int
        Its batch size. Tensors with another leading dimension are not counted.
    """
    peak = 0

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal peak
        peak = max(peak, _bytes(args, batch) + _bytes(output, batch))

    with own_thread.hooked(own_thread.after(module, note) for _, module in own_thread.hookable(model)):
        run()
    return 2 * peak // batch


def _bytes(value: Any, batch: int) -> int:
    tensor = first_tensor(value)
    if tensor is None or tensor.ndim == 0 or len(tensor) != batch:
        return 0
    return tensor.numel() * tensor.element_size()
