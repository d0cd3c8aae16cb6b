"""Composite operators written with simpler ones, so that a batch of any size survives the tracing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch._decomp.decompositions import grid_sampler_2d
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import axis_maps


class PlainForward(TorchFunctionMode):
    """While it is entered, the operators below are computed by simpler ones.

    Their own code asks for sizes as plain numbers, which would fix the batch's, takes a fused kernel that has no ONNX
    operator, or writes to a view, which can't be differentiated in a functional graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self._padded: _Padded | None = None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a function's plain form, where it has one."""
        if function in _CONVOLUTIONS and self._padded is not None:
            args, kwargs = self._padded.inside(*args, **(kwargs or {})), {}
        found = NotImplemented
        if (plain := _PLAIN.get(function)) is not None:
            with self:
                found = plain(*args, **(kwargs or {}))
        if found is NotImplemented:
            found = function(*args, **(kwargs or {}))
        self._note(function, args, kwargs or {}, found)
        return found

    def _note(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Any) -> None:
        """Note what is padded with zeros, as long as no other function has had it, which might have written to it."""
        if function is F.pad:
            self._padded = _Padded.of(found, *args, **kwargs)
        elif self._padded is not None and getattr(function, "__name__", "") != "__get__":
            self._padded = None


class _Padded(NamedTuple):
    """What ``F.pad`` has made with as many zeros on both sides."""

    output: torch.Tensor
    input: torch.Tensor
    symmetric: list[int]
    """Zeros on each side, the last axis first."""

    @classmethod
    def of(
        cls,
        output: torch.Tensor,
        input: torch.Tensor,
        pad: Sequence[int],
        mode: str = "constant",
        value: float | None = None,
    ) -> _Padded | None:
        before, after = list(pad[::2]), list(pad[1::2])
        if mode != "constant" or value or before != after or min(before, default=0) < 0:
            return None
        return cls(output, input, before)

    def inside(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> tuple[Any, ...]:
        """The arguments of a convolution that does the padding itself, where what is padded enters it.

        Its gradient is then computed for what was there before, without the border.
        """
        rank = weight.ndim - 2
        padding = 0 if padding == "valid" else padding
        if input is self.output and not isinstance(padding, str) and len(self.symmetric) <= rank:
            own = [padding] * rank if isinstance(padding, int) else list(padding)
            added = [*[0] * (rank - len(self.symmetric)), *reversed(self.symmetric)]
            input, padding = self.input, [m + n for m, n in zip(own, added)]
        return input, weight, bias, stride, padding, dilation, groups


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    if weight.ndim != 2:
        return NotImplemented
    rows = input.reshape(-1, input.shape[-1])
    found = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    return found.reshape(*input.shape[:-1], weight.shape[0])


def _matmul(input: torch.Tensor, other: torch.Tensor) -> Any:
    if input.ndim >= 3 and other.ndim == 2:
        return torch.mm(input.reshape(-1, input.shape[-1]), other).reshape(*input.shape[:-1], other.shape[-1])
    if input.ndim == other.ndim >= 4 and all(_same(m, n) for m, n in zip(input.shape[:-2], other.shape[:-2])):
        left, right = (each.reshape(-1, *each.shape[-2:]) for each in (input, other))
        return torch.bmm(left, right).reshape(*input.shape[:-1], other.shape[-1])
    return NotImplemented


def _same(m: Any, n: Any) -> bool:
    return m is n or m == n


def _scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p:
        return NotImplemented
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    # The root of the scale on both sides, as torch's own plain form.
    scores = torch.matmul(query * math.sqrt(scale), key.transpose(-2, -1) * math.sqrt(scale))
    if attn_mask is None:
        return torch.matmul(scores.softmax(-1), value)
    boolean = attn_mask.dtype == torch.bool
    scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
    # A row without any key gives zeros.
    some = scores.amax(-1, keepdim=True) > -torch.inf
    return torch.matmul(torch.where(some, scores.masked_fill(~some, 0.0).softmax(-1), 0.0), value)


def _setitem(x: torch.Tensor, index: Any, value: Any) -> Any:
    """``x[index] = value`` without aten's copy, which has no derivative once a graph is functional."""
    parts = index if isinstance(index, tuple) else (index,)
    views = all(isinstance(part, int | slice | type(None) | type(...)) and not isinstance(part, bool) for part in parts)
    if not views or not isinstance(value, torch.Tensor) or not x.is_floating_point():
        return NotImplemented
    # A copy of it, as it may be the very part that is written to: `x[index] *= 2` ends in `x[index] = x[index]`.
    kept = value.clone()
    x[index].zero_().add_(kept)
    return None


def _view(x: torch.Tensor, *shape: Any, **kwargs: Any) -> Any:
    """A view where one can be: the strides of what is computed here may be others than those that a model counts on."""
    if kwargs or not shape or isinstance(shape[0], torch.dtype):
        return NotImplemented
    return x.reshape(*shape)


def _copy_(x: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> Any:
    if not x.is_floating_point():
        return NotImplemented
    kept = src.clone()
    return x.zero_().add_(kept)


def _pad(input: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode == "constant" or (mode != "circular" and min(pad, default=0) < 0):
        return NotImplemented
    for i in range(len(pad) // 2):
        before, after = pad[2 * i : 2 * i + 2]
        axis = input.ndim - 1 - i
        size = int(input.shape[axis]) - max(-before, 0) - max(-after, 0)
        kept = input.narrow(axis, max(-before, 0), size)
        parts = [_border(kept, axis, before, mode, first=True)] if before > 0 else []
        parts += [kept, _border(kept, axis, after, mode, first=False)] if after > 0 else [kept]
        input = torch.cat(parts, dim=axis) if len(parts) > 1 else kept
    return input


def _border(x: torch.Tensor, axis: int, count: int, mode: str, *, first: bool) -> torch.Tensor:
    """So many rows for the first or last side of an axis."""
    size = int(x.shape[axis])
    if mode == "circular":
        return x.narrow(axis, size - count if first else 0, count)
    if mode == "reflect":
        return x.narrow(axis, 1 if first else size - 1 - count, count).flip(axis)
    sizes = [-1] * x.ndim
    sizes[axis] = count
    return x.narrow(axis, 0 if first else size - 1, 1).expand(sizes)


def _rrelu(
    input: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Any:
    return NotImplemented if training else F.leaky_relu(input, (lower + upper) / 2)


def _bilinear(
    input1: torch.Tensor, input2: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    found = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return found if bias is None else found + bias


def _cdist(x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str | None = None) -> Any:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), ord=p, dim=-1)


def _grid_sample(
    input: torch.Tensor,
    grid: torch.Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:
    if input.ndim != 4:
        return NotImplemented
    kind = ("bilinear", "nearest", "bicubic").index(mode)
    border = ("zeros", "border", "reflection").index(padding_mode)
    return grid_sampler_2d(input, grid, kind, border, bool(align_corners))


def _interpolate(
    input: torch.Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if mode == "area":
        return NotImplemented
    rank = input.ndim - 2
    sizes = [size] * rank if size is None or isinstance(size, int) else size
    factors = [scale_factor] * rank if scale_factor is None or isinstance(scale_factor, int | float) else scale_factor
    in_plane = mode == "bicubic" or antialias
    kind = "linear" if mode in ("bilinear", "trilinear") and not in_plane else mode

    def along(units: torch.Tensor, axis: int) -> torch.Tensor:
        # One axis of a signal, or of an image of one row.
        size, factor = sizes[axis], factors[axis]
        row: Any = None if size is None else int(size)
        scale: Any = factor
        if in_plane:
            row, scale = (None if row is None else (1, row)), (None if factor is None else (1.0, factor))
        units = units[:, None, None] if in_plane else units[:, None]
        return F.interpolate(units, row, scale, kind, align_corners, recompute_scale_factor, antialias).flatten(1)

    return axis_maps.forward(input, along)


_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}


def _adaptive_avg_pool(input: torch.Tensor, output_size: int | Sequence[int | None], *, dims: int) -> Any:
    """To one cell, torch takes the mean, and may then give it other strides in place, which no graph knows."""
    cells = [output_size] if isinstance(output_size, int) else output_size
    return input.mean(tuple(range(-dims, 0)), keepdim=True) if all(n == 1 for n in cells) else NotImplemented


_PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {
    F.adaptive_avg_pool1d: partial(_adaptive_avg_pool, dims=1),
    F.adaptive_avg_pool2d: partial(_adaptive_avg_pool, dims=2),
    F.adaptive_avg_pool3d: partial(_adaptive_avg_pool, dims=3),
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    F.scaled_dot_product_attention: _scaled_dot_product_attention,
    torch.Tensor.__setitem__: _setitem,
    torch.Tensor.copy_: _copy_,
    torch.Tensor.view: _view,
    F.pad: _pad,
    F.rrelu: _rrelu,
    F.interpolate: _interpolate,
    F.bilinear: _bilinear,
    F.grid_sample: _grid_sample,
    torch.cdist: _cdist,
}
