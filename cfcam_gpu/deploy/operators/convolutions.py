"""The gradient with respect to a convolution's input, as convolutions.

Never as a transposed convolution, which ONNX Runtime computes five to seven times slower where channels are separate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import gcd, prod
from typing import Any

import torch

from .interleaving import Window, expanded, interleaved, paired, shifted, windows

aten = torch.ops.aten


def convolution_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """As ``aten.convolution_backward``, for the input alone; for weights that depend on the images, not implemented."""
    if wanted[1] or wanted[2]:
        return NotImplemented
    if not wanted[0]:
        return None, None, None
    rank = weight.ndim - 2
    stride, padding, dilation = (expanded(v, rank) for v in (stride, padding, dilation))
    if transposed:
        found = _convolved(gradient, weight, stride, padding, dilation, groups)
        # An output padding of a stride or more, which a dilation allows, makes outputs that no input reaches.
        return shifted(found, [0] * rank, [int(n) for n in x.shape[2:]]), None, None
    axes = windows(x.shape, [int(n) for n in weight.shape[2:]], stride, padding, dilation)
    swapped = _swapped(weight, groups)
    apart = all(axis.kernel <= axis.stride and axis.dilation == 1 and not axis.padding for axis in axes)
    if groups == 1 and prod(stride) > 1 and apart:
        return _side_by_side(gradient, swapped, axes), None, None
    parts = {}
    for remainders in product(*(range(axis.stride) for axis in axes)):
        if all(axis.taps(r) for axis, r in zip(axes, remainders)):
            parts[remainders] = _part(gradient, swapped, axes, remainders, groups)
    return interleaved(parts, axes), None, None


def _swapped(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Inputs and outputs exchanged within each group: (I, O / groups, *kernel)."""
    outputs, inputs, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    if outputs == groups and inputs == 1:
        return weight
    if groups == 1:
        return weight.transpose(0, 1)
    split = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return split.transpose(1, 2).reshape(groups * inputs, outputs // groups, *kernel)


def _part(
    gradient: torch.Tensor, weight: torch.Tensor, axes: Sequence[Window], remainders: Sequence[int], groups: int
) -> torch.Tensor:
    """The gradient at the positions of one remainder for each axis: a convolution with the taps that reach them."""
    dilations, starts, reaches = [], [], []
    for axis, (window, r) in enumerate(zip(axes, remainders)):
        taps = window.taps(r)
        if len(taps) < window.kernel:
            weight = weight[(slice(None),) * (2 + axis) + (slice(taps[0], taps[-1] + 1, _step(window)),)]
        dilations.append(window.dilation // gcd(window.dilation, window.stride))
        # The last tap reads the earliest output.
        starts.append(window.shift(r, taps[-1]))
        reaches.append((len(taps) - 1) * dilations[-1])
    if any(n > 1 for n in weight.shape[2:]):
        weight = weight.flip([2 + axis for axis, n in enumerate(weight.shape[2:]) if n > 1])
    lengths = [window.length for window in axes]
    before = [-start for start in starts]
    after = [
        start + length + reach - int(n) for start, length, reach, n in zip(starts, lengths, reaches, gradient.shape[2:])
    ]
    if before == after and min(before) >= 0:
        padding = before
    else:
        padding = [0] * len(axes)
        gradient = shifted(gradient, starts, [length + reach for length, reach in zip(lengths, reaches)])
    return _convolved(gradient, weight, [1] * len(axes), padding, dilations, groups)


def _step(window: Window) -> int:
    """From one tap of a remainder to the next."""
    return window.stride // gcd(window.dilation, window.stride)


def _side_by_side(gradient: torch.Tensor, weight: torch.Tensor, axes: Sequence[Window]) -> torch.Tensor:
    """Windows that don't overlap: each position has one tap, so one product with all taps is the gradient."""
    inputs, outputs, rank = int(weight.shape[0]), int(weight.shape[1]), len(axes)
    kernel, strides = [a.kernel for a in axes], [a.stride for a in axes]
    order = [0, *range(2, 2 + rank), 1]
    columns = weight.permute(order).reshape(inputs * prod(kernel), outputs, *[1] * rank)
    one = [1] * rank
    cells = _convolved(gradient, columns, one, [0] * rank, one, 1)
    counts = [int(n) for n in gradient.shape[2:]]
    cells = cells.reshape([gradient.shape[0], inputs, *kernel, *counts])
    cells = paired(cells.permute([0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank)]))
    if kernel != strides:
        pads = [n for axis in reversed(axes) for n in (0, axis.stride - axis.kernel, 0, 0)]
        cells = aten.constant_pad_nd.default(cells, pads, 0.0)
    whole = cells.reshape([gradient.shape[0], inputs, *(n * s for n, s in zip(counts, strides))])
    return shifted(whole, [0] * rank, [axis.size for axis in axes])


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    nowhere = [0] * len(stride)
    found: torch.Tensor = aten.convolution.default(x, weight, None, stride, padding, dilation, False, nowhere, groups)
    return found
