"""The gradient of maximum pooling: each window's goes to the first of its largest values, in the order of the rows.

No positions are read from a pooling: TensorRT's gives none, and ONNX Runtime leaves its fast layout for them. The
values of each window are laid side by side instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch

from . import axis_maps
from .constants import at_once, constant
from .interleaving import expanded, paired


def max_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    positions: torch.Tensor,
) -> torch.Tensor:
    """As ``aten.max_pool2d_with_indices_backward``, of any rank; `positions` is not read."""
    rank = x.ndim - 2
    kernel, padding, dilation = (expanded(v, rank) for v in (kernel, padding, dilation))
    stride = expanded(stride, rank) if stride else kernel
    rows = [
        _rows_of_windows(int(n), int(o), *window)
        for n, o, *window in zip(x.shape[2:], gradient.shape[2:], kernel, stride, padding, dilation)
    ]
    return _to_first_largest(gradient, x, rows)


def adaptive_max_pool(x: torch.Tensor, cells: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``aten.adaptive_max_pool2d``, of any rank; the positions are 0 and must not be read."""
    found = _side_by_side(x, _rows_of_cells(x.shape[2:], cells)).amax(-1)
    return found, torch.zeros_like(found, dtype=torch.int64)


def adaptive_max_pool_backward(gradient: torch.Tensor, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """As ``aten.adaptive_max_pool2d_backward``, of any rank; `positions` is not read."""
    return _to_first_largest(gradient, x, _rows_of_cells(x.shape[2:], gradient.shape[2:]))


def _rows_of_windows(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """The rows of each window, (outputs, kernel).

    One beyond the border repeats the window's nearest row inside: the first of the largest values stays the first.
    """

    def make() -> torch.Tensor:
        rows = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation
        first = rows + (-rows).clamp(min=0).add(dilation - 1).div(dilation, rounding_mode="floor") * dilation
        last = rows - (rows - size + 1).clamp(min=0).add(dilation - 1).div(dilation, rounding_mode="floor") * dilation
        return torch.where(rows < 0, first, last)

    return constant(make)


def _rows_of_cells(sizes: Sequence[int], cells: Sequence[int]) -> list[torch.Tensor]:
    """For each axis the rows of each cell, (cells, K); a cell with fewer than K repeats its last."""

    def make(size: int, count: int) -> torch.Tensor:
        number = torch.arange(count)
        starts = number * size // count
        ends = -(-(number + 1) * size // count)
        longest = int((ends - starts).max())
        return torch.minimum(starts[:, None] + torch.arange(longest), ends[:, None] - 1)

    return [constant(partial(make, int(size), int(count))) for size, count in zip(sizes, cells)]


def _side_by_side(x: torch.Tensor, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, C, *outputs, K) values of each window, from the rows of each axis."""
    for axis, each in enumerate(rows):
        if not _is_in_order(each, int(x.shape[2 + axis])):
            x = x.index_select(2 + axis, constant(partial(each.reshape, -1)))
    apart = x.reshape([*x.shape[:2], *(n for each in rows for n in each.shape)])
    order = [0, 1, *range(2, apart.ndim, 2), *range(3, apart.ndim, 2)]
    return apart.permute(order).reshape([*x.shape[:2], *(len(each) for each in rows), -1])


def _to_first_largest(gradient: torch.Tensor, x: torch.Tensor, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, C, *sizes): of each window's gradient, (B, C, *outputs), what each position of ``x`` gets."""
    lead, counts, reaches = list(x.shape[:2]), [len(each) for each in rows], [each.shape[1] for each in rows]
    values = _side_by_side(x, rows)
    number = constant(lambda: torch.arange(prod(reaches)))
    first = values.argmax(-1, keepdim=True) == number
    share = (gradient.unsqueeze(-1) * first.to(gradient.dtype)).reshape(lead + counts + reaches)
    share = paired(share).reshape(lead + [count * reach for count, reach in zip(counts, reaches)])
    for axis, each in enumerate(rows):
        size = int(x.shape[2 + axis])
        if not _is_in_order(each, size):
            share = axis_maps.summed(share, 2 + axis, each, size)
    return share


def _is_in_order(rows: torch.Tensor, size: int) -> bool:
    """Whether the windows lie side by side and cover the axis."""
    return rows.numel() == size and at_once(lambda: torch.equal(rows.reshape(-1), torch.arange(size)))
