"""Normalisations as functions that are linear but for a denominator, read from the arguments of torch's operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class Norm(NamedTuple):
    """What is divided by what.

    Parameters
    ----------
    dims : tuple of int
        The axes that the moments are over, of (B, groups, N) where there are groups.
    eps : float
        Added to the second moment.
    weight, bias : tensor or None
        Of a shape that goes with the input's.
    centred : bool
        Whether the mean is taken off.
    groups : int, optional
        Into which the channels of (B, C, ...) are put.
    """

    dims: tuple[int, ...]
    eps: float
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    centred: bool = True
    groups: int | None = None

    def linear(self, value: torch.Tensor) -> torch.Tensor:
        """The normalised value, whose denominator is a constant to autograd; float32 of float16 and bfloat16."""
        found = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        if self.groups is not None:
            found = found.reshape(value.shape[0], self.groups, -1)
        if self.centred:
            found = found - found.mean(self.dims, keepdim=True)
        with torch.no_grad():
            scale = (found.square().mean(self.dims, keepdim=True) + self.eps).rsqrt()
        found = (found * scale).reshape(value.shape)
        if self.weight is not None:
            found = found * self.weight.to(found.dtype)
        return found if self.bias is None else found + self.bias.to(found.dtype)


def _layer_norm(
    input: torch.Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Norm:
    return Norm(_last(normalized_shape), eps, weight, bias)


def _rms_norm(input: torch.Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Norm:
    small = torch.finfo(input.dtype).eps if eps is None else eps
    return Norm(_last(normalized_shape), small, weight, centred=False)


def _group_norm(
    input: torch.Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Norm:
    return Norm((-1,), eps, _of_channels(weight, input), _of_channels(bias, input), groups=num_groups)


def _instance_norm(
    input: torch.Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, of_input: bool, *rest: Any
) -> Norm | None:
    """By the running moments it is linear as it is."""
    dims = tuple(range(2, input.ndim))
    return Norm(dims, rest[1], _of_channels(weight, input), _of_channels(bias, input)) if of_input else None


def _batch_norm(
    input: torch.Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, *rest: Any
) -> Norm | None:
    """By the running moments it is linear as it is."""
    dims = (0, *range(2, input.ndim))
    return Norm(dims, rest[1], _of_channels(weight, input), _of_channels(bias, input)) if training else None


#: Of operators of torch's, by name, what their arguments mean; None where nothing depends on the input's moments.
NORMS: dict[str, Callable[..., Norm | None]] = {
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}


def _last(normalized_shape: Any) -> tuple[int, ...]:
    return tuple(range(-len(normalized_shape) if isinstance(normalized_shape, Sequence) else -1, 0))


def _of_channels(parameter: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor | None:
    """A parameter (C,) for (B, C, ...)."""
    return None if parameter is None else parameter.reshape(-1, *(1 for _ in value.shape[2:]))
