"""How many images go through a model at once within a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from torch import nn

from ..targets.outputs import first_tensor


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
    owner, peak = get_ident(), 0

    # `*rest`: another thread may remove its hook while torch, having read the list, is about to call it.
    def after(module: nn.Module, args: tuple[Any, ...], output: Any, *rest: Any) -> None:
        nonlocal peak
        if get_ident() == owner:
            peak = max(peak, _bytes(args, batch) + _bytes(output, batch))

    handles = [module.register_forward_hook(after) for module in model.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return 2 * peak // batch


def _bytes(value: Any, batch: int) -> int:
    tensor = first_tensor(value)
    if tensor is None or tensor.ndim == 0 or len(tensor) != batch:
        return 0
    return tensor.numel() * tensor.element_size()
