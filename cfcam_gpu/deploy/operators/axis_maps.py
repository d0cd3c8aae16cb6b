"""Gradients of operators that are one linear map along each axis: average pooling, interpolation, padding by copies.

The map of an axis is a matrix, which the operator itself gives for unit vectors, so that borders, scales and rounding
are its own. The matrix transposed is the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from .constants import at_once, constant

aten = torch.ops.aten

LARGEST = 2**24
"""Positions of an axis squared, up to which its matrix is made while tracing: 64 MB."""
_DENSE = 2**18
"""Elements of a matrix that stays in the graph; a larger one, with its few entries in each column, becomes gathers."""
_AT_ONCE = 2**14
"""Elements of the matrix of all axes together, up to which one product is faster than one for each axis."""

Forward = Callable[[torch.Tensor, int], torch.Tensor]
"""The operator along an axis of space: from unit vectors, (n, n), and the axis' number to (n, outputs)."""


def forward(x: torch.Tensor, along: Forward) -> Any:
    """(B, C, *outputs) of ``x``, (B, C, *sizes); not implemented where an axis is beyond :data:`LARGEST`."""
    matrices = _matrices(x.shape[2:], along, x.dtype)
    return NotImplemented if matrices is None else applied(x, matrices)


def backward(gradient: torch.Tensor, sizes: Sequence[int], along: Forward) -> Any:
    """(B, C, *sizes) of the gradient, (B, C, *outputs); not implemented where an axis is beyond :data:`LARGEST`."""
    matrices = _matrices(sizes, along, gradient.dtype)
    return NotImplemented if matrices is None else applied(gradient, [constant(m.t) for m in matrices])


def _matrices(sizes: Sequence[int], along: Forward, dtype: torch.dtype) -> list[torch.Tensor] | None:
    def matrix(axis: int) -> torch.Tensor:
        return along(torch.eye(int(sizes[axis]), dtype=dtype), axis)

    if any(int(n) ** 2 > LARGEST for n in sizes):
        return None
    return [constant(partial(matrix, axis)) for axis in range(len(sizes))]


def applied(x: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, C, *columns): each axis of space of ``x``, (B, C, *rows), times its matrix of (rows, columns)."""
    changed = [axis for axis, m in enumerate(matrices) if m.shape[0] != m.shape[1] or not _is_identity(m)]
    together = len(changed) > 1 and len(changed) == len(matrices) and _elements(matrices) <= _AT_ONCE
    if together and not all(map(_repeats, matrices)):
        whole = constant(lambda: _kron(matrices))
        flat = x.reshape([*x.shape[:2], whole.shape[0]])
        return (flat @ whole).reshape([*x.shape[:2], *(int(m.shape[1]) for m in matrices)])
    for axis in changed:
        m = matrices[axis]
        if _repeats(m):
            x = _repeated(x, 2 + axis, m.shape[1] // m.shape[0])
        else:
            x = _along(x, 2 + axis, m) if m.numel() <= _DENSE else _gathered(x, 2 + axis, m)
    return x


def _repeats(m: torch.Tensor) -> bool:
    """Whether each row's value is repeated as often."""
    rows, columns = m.shape
    if columns % rows:
        return False
    return at_once(lambda: torch.equal(m, torch.eye(rows, dtype=m.dtype).repeat_interleave(columns // rows, dim=1)))


def _repeated(x: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    sizes = [-1] * (x.ndim + 1)
    sizes[axis + 1] = count
    return x.unsqueeze(axis + 1).expand(sizes).reshape([*x.shape[:axis], -1, *x.shape[axis + 1 :]])


def _is_identity(m: torch.Tensor) -> bool:
    return at_once(lambda: torch.equal(m, torch.eye(len(m), dtype=m.dtype)))


def _elements(matrices: Sequence[torch.Tensor]) -> int:
    count = 1
    for m in matrices:
        count *= m.numel()
    return count


def _kron(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    whole = matrices[0]
    for m in matrices[1:]:
        whole = torch.kron(whole, m)
    return whole


def _along(x: torch.Tensor, axis: int, m: torch.Tensor) -> torch.Tensor:
    return x @ m if axis == x.ndim - 1 else (x.transpose(axis, -1) @ m).transpose(axis, -1)


def summed(x: torch.Tensor, axis: int, rows: torch.Tensor, size: int) -> torch.Tensor:
    """Entries of an axis added at the rows that they belong to, of so many; ``rows`` are int64 of any shape."""
    if rows.numel() * size <= _DENSE:
        return _along(x, axis, constant(lambda: (rows.reshape(-1, 1) == torch.arange(size)).to(x.dtype)))

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        order, counts = rows.reshape(-1).argsort(stable=True), torch.bincount(rows.reshape(-1), minlength=size)
        number = torch.arange(int(counts.max()))[:, None]
        place = (counts.cumsum(0) - counts + number).clamp(max=len(order) - 1)
        return order[place], (number < counts).to(x.dtype)

    return _weighed(x, axis, *at_once(make))


def _gathered(x: torch.Tensor, axis: int, m: torch.Tensor) -> torch.Tensor:
    """The product with a matrix that has few entries in each column."""

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        most = int((m != 0).sum(0).max())
        entries = (m != 0).to(torch.int8).argsort(dim=0, descending=True, stable=True)[:most]
        return entries, m.gather(0, entries)

    return _weighed(x, axis, *at_once(make))


def _weighed(x: torch.Tensor, axis: int, entries: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum over k of entry ``entries[k]`` of an axis times ``weights[k]``, both (K, columns)."""
    shape = [-1] + [1] * (x.ndim - axis - 1)
    rows = at_once(lambda: [(each.contiguous(), weight.reshape(shape)) for each, weight in zip(entries, weights)])
    parts = [x.index_select(axis, each) * weight for each, weight in rows]
    found: torch.Tensor = sum(parts[1:], parts[0])
    return found
