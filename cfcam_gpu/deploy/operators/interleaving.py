"""What a stride leaves behind: the positions of one remainder by themselves, and all of them interleaved.

Along an axis, a window with stride ``s``, padding ``p`` and dilation ``d`` reads, with its tap ``t``, position
``i = s * o - p + d * t`` for output ``o``. So the positions of one remainder ``r = i mod s`` are reached by some taps
only, and among these, by ever the same outputs: ``o = q + (r + p - d * t) / s`` for the ``q``-th of them. A gradient is
summed for each remainder by itself, at the outputs' resolution, and no zero is ever multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

aten = torch.ops.aten


class Window(NamedTuple):
    """A window along one axis."""

    size: int
    """Of the axis."""
    kernel: int
    stride: int
    padding: int
    dilation: int

    def taps(self, remainder: int) -> list[int]:
        """Those that reach positions of a remainder."""
        return [t for t in range(self.kernel) if (remainder + self.padding - self.dilation * t) % self.stride == 0]

    def shift(self, remainder: int, tap: int) -> int:
        """The output that reaches the first position of a remainder with a tap; negative if there is none."""
        return (remainder + self.padding - self.dilation * tap) // self.stride

    @property
    def length(self) -> int:
        """The number of positions that share a remainder, the larger one."""
        return -(-self.size // self.stride)


def windows(
    shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[Window]:
    """One for each axis of space; ``shape`` is the input's, (B, C, *space)."""
    return [Window(int(n), k, s, p, d) for n, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation)]


def expanded(values: Sequence[int], rank: int) -> list[int]:
    """One value for each axis of space, where torch may give one for all."""
    return list(values) * rank if len(values) == 1 else list(values)


def shifted(x: torch.Tensor, starts: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
    """Positions ``start`` to ``start + length`` of each axis of space, zeros where there are none."""
    pads: list[int] = []
    for axis, (start, length) in enumerate(zip(starts, lengths)):
        size = int(x.shape[2 + axis])
        first, last = max(start, 0), min(start + length, size)
        if last - first < size:
            x = x.narrow(2 + axis, first, last - first)
        pads = [max(-start, 0), max(start + length - size, 0), *pads]
    return aten.constant_pad_nd.default(x, pads, 0.0) if any(pads) else x


def interleaved(parts: Mapping[tuple[int, ...], torch.Tensor], axes: Sequence[Window]) -> torch.Tensor:
    """(B, C, *sizes): position ``q * stride + r`` of each axis from position ``q`` of the part of the remainders ``r``.

    Parameters
    ----------
    parts : mapping from a remainder for each axis to (B, C, *lengths)
        A part that is missing is zero.
    axes : sequence of Window
    """
    for axis in reversed(range(len(axes))):
        stride = axes[axis].stride
        if stride > 1:
            # Laid behind one another and read in order, which is several times faster than a transpose.
            rows = {remainders[:axis] for remainders in parts}
            parts = {row: _woven([parts.get((*row, r)) for r in range(stride)], 2 + axis) for row in sorted(rows)}
        else:
            parts = {remainders[:axis]: part for remainders, part in parts.items()}
    return shifted(parts[()], [0] * len(axes), [axis.size for axis in axes])


def _woven(parts: Sequence[torch.Tensor | None], axis: int) -> torch.Tensor:
    """Along an axis the first of each part, then the second of each."""
    given = next(part for part in parts if part is not None)
    zeros = torch.zeros_like(given)
    stack = torch.stack([zeros if part is None else part for part in parts], dim=axis + 1)
    return stack.reshape([*given.shape[:axis], -1, *given.shape[axis + 1 :]])


def paired(x: torch.Tensor) -> torch.Tensor:
    """(B, C, m, k, n, l) of (B, C, m, n, k, l): each axis beside what lies inside of it."""
    rank = (x.ndim - 2) // 2
    return x.permute([0, 1, *(n for axis in range(rank) for n in (2 + axis, 2 + rank + axis))])
