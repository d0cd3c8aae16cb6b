"""Gradients of activations that are bent.

A mask is cast and multiplied with, which takes ONNX Runtime a seventh of the time of a choice between two tensors. It
is told from the activation's output where that is possible, so that a runtime can still fuse the activation with the
convolution in front of it.
"""

from __future__ import annotations

import torch

aten = torch.ops.aten


def threshold_backward(gradient: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """As ``aten.threshold_backward``, of a rectifier's output."""
    passes = x > threshold
    return gradient * passes.to(gradient.dtype)


def hardtanh_backward(gradient: torch.Tensor, x: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
    """As ``aten.hardtanh_backward``: nothing at the bounds, and beyond them the output is at one."""
    output = aten.hardtanh.default(x, lowest, highest)
    inside: torch.Tensor = (output > lowest) & (output < highest)
    return gradient * inside.to(gradient.dtype)


def hardsigmoid_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """As ``aten.hardsigmoid_backward``."""
    return gradient * ((x > -3.0) & (x < 3.0)).to(gradient.dtype) * (1 / 6)


def hardswish_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """As ``aten.hardswish_backward``."""
    bent, straight = (x > -3.0) & (x < 3.0), x >= 3.0
    return gradient * (bent.to(x.dtype) * (x / 3 + 0.5) + straight.to(x.dtype))


def leaky_relu_backward(gradient: torch.Tensor, x: torch.Tensor, slope: float, of_output: bool) -> torch.Tensor:
    """As ``aten.leaky_relu_backward``; with a slope that is not negative, the output has the input's sign."""
    return gradient * ((x > 0).to(gradient.dtype) + (x <= 0).to(gradient.dtype) * slope)
