"""Norms by plain operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def layer_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As ``aten.native_layer_norm``: TensorRT's gives no mean and deviation, which the gradient reads."""
    axes = list(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    scale = ((centred * centred).mean(axes, keepdim=True) + eps).rsqrt()
    found = centred * scale
    found = found if weight is None else found * weight
    return found if bias is None else found + bias, mean, scale
