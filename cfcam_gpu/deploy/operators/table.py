"""Which operators are written out while a graph is traced, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._ops import OpOverload

from . import activations, norms, resampling
from .convolutions import convolution_backward
from .max_pools import adaptive_max_pool, adaptive_max_pool_backward, max_pool_backward

aten = torch.ops.aten

Table = dict[OpOverload, Callable[..., Any]]


def decompositions(*, tensorrt: bool) -> Table:
    """The ``decomposition_table`` of :func:`torch.fx.experimental.proxy_tensor.make_fx`.

    Parameters
    ----------
    tensorrt : bool
        Whether what TensorRT lacks is written out, too.
    """
    table: Table = {
        operator: written_out
        for operator, written_out in decomposition_table.items()
        if isinstance(operator, OpOverload) and "backward" in str(operator)
    }
    table |= {
        aten.threshold_backward.default: activations.threshold_backward,
        aten.hardtanh_backward.default: activations.hardtanh_backward,
        aten.hardsigmoid_backward.default: activations.hardsigmoid_backward,
        aten.hardswish_backward.default: activations.hardswish_backward,
        aten.leaky_relu_backward.default: activations.leaky_relu_backward,
        aten.convolution_backward.default: convolution_backward,
        aten.max_pool2d_with_indices_backward.default: max_pool_backward,
        aten.max_pool3d_with_indices_backward.default: max_pool_backward,
        aten.adaptive_max_pool2d.default: adaptive_max_pool,
        aten.adaptive_max_pool3d.default: adaptive_max_pool,
        aten.adaptive_max_pool2d_backward.default: adaptive_max_pool_backward,
        aten.adaptive_max_pool3d_backward.default: adaptive_max_pool_backward,
        aten.constant_pad_nd.default: resampling.constant_pad,
        aten.unfold_backward.default: resampling.unfold_backward,
        aten.avg_pool2d.default: resampling.avg_pool,
        aten.avg_pool3d.default: resampling.avg_pool,
        aten.avg_pool2d_backward.default: resampling.avg_pool_backward,
        aten.avg_pool3d_backward.default: resampling.avg_pool_backward,
        aten._adaptive_avg_pool2d.default: resampling.adaptive_avg_pool,
        aten._adaptive_avg_pool3d.default: resampling.adaptive_avg_pool,
        aten._adaptive_avg_pool2d_backward.default: resampling.adaptive_avg_pool_backward,
        aten._adaptive_avg_pool3d_backward.default: resampling.adaptive_avg_pool_backward,
    }
    if tensorrt:
        table[aten.native_layer_norm.default] = norms.layer_norm
    return table
