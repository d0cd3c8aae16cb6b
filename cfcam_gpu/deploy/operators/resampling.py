"""Average pooling, windows and borders: one linear map along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from . import axis_maps
from .constants import constant
from .interleaving import expanded

aten = torch.ops.aten


def avg_pool(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    """As ``aten.avg_pool2d``, of any rank, with a divisor, which torch's exporter leaves out without a word."""
    if divisor is None:
        return NotImplemented
    kernel, stride, padding = _window(x.ndim - 2, kernel, stride, padding)
    found = axis_maps.forward(x, _averages(kernel, stride, padding, ceil_mode, count_include_pad, divisor))
    return found if found is NotImplemented else found / divisor


def avg_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Any:
    """As ``aten.avg_pool2d_backward``, of any rank."""
    kernel, stride, padding = _window(x.ndim - 2, kernel, stride, padding)
    along = _averages(kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    found = axis_maps.backward(gradient, x.shape[2:], along)
    return found if divisor is None or found is NotImplemented else found / divisor


def _window(
    rank: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    kernel = expanded(kernel, rank)
    return kernel, expanded(stride, rank) if stride else kernel, expanded(padding, rank)


def _averages(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> axis_maps.Forward:
    """The averages along an axis, or the sums, where another divisor is given."""

    def along(units: torch.Tensor, axis: int) -> torch.Tensor:
        window = (1, kernel[axis]), (1, stride[axis]), (0, padding[axis]), ceil_mode, count_include_pad
        return F.avg_pool2d(units[:, None, None], *window, divisor_override=divisor and 1)[:, 0, 0]

    return along


def adaptive_avg_pool(x: torch.Tensor, cells: Sequence[int]) -> Any:
    """As ``aten._adaptive_avg_pool2d``, of any rank."""
    return axis_maps.forward(x, _adaptive(cells))


def adaptive_avg_pool_backward(gradient: torch.Tensor, x: torch.Tensor) -> Any:
    """As ``aten._adaptive_avg_pool2d_backward``, of any rank."""
    return axis_maps.backward(gradient, x.shape[2:], _adaptive(gradient.shape[2:]))


def _adaptive(cells: Sequence[int]) -> axis_maps.Forward:
    return lambda units, axis: F.adaptive_avg_pool1d(units[:, None], int(cells[axis]))[:, 0]


def constant_pad(x: torch.Tensor, padding: Sequence[int], value: float = 0.0) -> Any:
    """As ``aten.constant_pad_nd``; what is cut off is a slice, which runtimes do without copying value by value."""
    if min(padding, default=0) >= 0:
        return NotImplemented
    for i in range(len(padding) // 2):
        axis, before, after = x.ndim - 1 - i, *(max(-n, 0) for n in padding[2 * i : 2 * i + 2])
        x = x.narrow(axis, before, int(x.shape[axis]) - before - after)
    added = [max(n, 0) for n in padding]
    return aten.constant_pad_nd.default(x, added, value) if any(added) else x


def unfold_backward(gradient: torch.Tensor, sizes: Sequence[int], axis: int, size: int, step: int) -> Any:
    """As ``aten.unfold_backward``, of ``Tensor.unfold``: overlapping windows of an axis, laid behind the others."""
    axis %= len(sizes)
    count = int(gradient.shape[axis])
    apart = gradient.movedim(-1, axis + 1)
    flat = apart.reshape([*apart.shape[:axis], count * size, *apart.shape[axis + 2 :]])
    rows = constant(lambda: torch.arange(count)[:, None] * step + torch.arange(size))
    return axis_maps.summed(flat, axis, rows, int(sizes[axis]))
