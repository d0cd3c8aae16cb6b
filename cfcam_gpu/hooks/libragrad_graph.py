"""What LibraGrad writes into autograd's graph, and what it reads there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

from .autograd_graph import leads_to

#: How much what an operator returns is there to weigh something else: of two factors, the one with the higher number.
_GATES = {
    "Clamp": 1,
    "Erf": 2,
    "Exp": 2,
    "Exp2": 2,
    "Hardsigmoid": 2,
    "Hardtanh": 1,
    "Reciprocal": 2,
    "Rsqrt": 2,
    "Sgn": 3,
    "Sigmoid": 2,
    "Sign": 3,
    "Softmax": 2,
    "Tanh": 1,
}

#: Operators that leave the values as they are.
_VIEWS = {
    *("Alias", "AsStrided", "Clone", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze", "T", "ToCopy"),
    *("Transpose", "Unsqueeze", "UnsafeView", "View"),
}

#: Linear ones: what weighs before them does so behind them.
_LINEAR = _VIEWS | {
    *("Add", "Addmm", "Bmm", "Convolution", "Div", "Index", "MaskedFill", "Mean", "Mm", "Mul", "NativeDropout", "Neg"),
    *(
        "Repeat",
        "Roll",
        "Rsub",
        "Split",
        "SplitWithSizes",
        "Sub",
        "Sum",
        "Unbind",
        "UnsafeSplit",
        "Where",
        "LibraScaled",
    ),
}

#: Those with a rule, which are not seen in a graph where it was applied, and those that have none and need one.
_MISSED = {
    *("CosineSimilarity", "Cumprod", "FusedRmsNorm", "Gelu", "Glu", "Hardswish", "Mish", "NativeGroupNorm"),
    *("NativeLayerNorm", "Prod", "Silu", "VarMean"),
    *("CudnnRnn", "LstmMps", "MiopenRnn", "MkldnnRnnLayer", "ThnnFusedGruCell", "ThnnFusedLstmCell"),
}

#: Powers by a number, of which a rule scales what they get.
_POWERS = ("PowBackward0", "SqrtBackward0", "VarBackward0")

#: Operators of which a times all that they get gives a times their value: any number of these may be features.
_JOINT = {
    *("Add", "AsStridedScatter", "Cat", "Cdist", "Clamp", "ClampMax", "ClampMin", "Complex", "DiagonalScatter", "Dist"),
    *("EuclideanDist", "Fill", "Fmax", "Fmin", "Hypot", "IndexAdd", "IndexCopy", "IndexFill", "IndexPut"),
    *("IndexPutImpl", "MaskedFill", "MaskedScatter", "Maximum", "Minimum", "Put", "Rsub", "Scatter", "ScatterAdd"),
    *("SelectScatter", "SliceScatter", "Stack", "Sub", "UnsafeIndexPut", "Where"),
    *("torch::autograd::CopyBackwards", "torch::autograd::CopySlices"),
}

#: The places of what products multiply among an operator's arguments.
_FACTORS = {
    "Addbmm": slice(1, 3),
    "Addcdiv": slice(1, 3),
    "Addcmul": slice(1, 3),
    "Addmm": slice(1, 3),
    "Addmv": slice(1, 3),
    "Addr": slice(1, 3),
    "Baddbmm": slice(1, 3),
    "Bmm": slice(0, 2),
    "Convolution": slice(0, 2),
    "Div": slice(0, 2),
    "Dot": slice(0, 2),
    "LinalgCross": slice(0, 2),
    "Mm": slice(0, 2),
    "Mul": slice(0, 2),
    "Mv": slice(0, 2),
    "Trilinear": slice(0, 3),
    "Vdot": slice(0, 2),
}


class LibraValue(torch.autograd.Function):
    """See :func:`with_value`."""

    @staticmethod
    def forward(ctx: Any, linear: torch.Tensor, value: list[torch.Tensor]) -> torch.Tensor:
        """The value, which is in a list lest autograd take it for an argument and return a view of it."""
        return value[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Of `linear`."""
        return gradients[0], None


class LibraScaled(torch.autograd.Function):
    """See :func:`scaled`."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, factor: float) -> torch.Tensor:
        """A view."""
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Of `value`."""
        return gradients[0] * ctx.factor, None


def with_value(value: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    """A value that was computed without a graph, with the gradient of `linear`."""
    found: torch.Tensor = LibraValue.apply(linear, [value])  # type: ignore[no-untyped-call]
    return found


def scaled(value: torch.Tensor, factor: float) -> torch.Tensor:
    """The same tensor, to be read only, whose gradient is multiplied by a number."""
    found: torch.Tensor = LibraScaled.apply(value, factor)  # type: ignore[no-untyped-call]
    return found


def gating(factor: torch.Tensor, known: dict[Node, bool]) -> int:
    """How much a factor of a product is there to weigh the others, by the operator that it comes from."""
    node = get_gradient_edge(factor).node
    while True:
        kind = _kind(node)
        if kind == "Pow" and _is_negative(node):
            return _GATES["Reciprocal"]
        if kind in _GATES:
            return _GATES[kind]
        dependent = _dependent(node, slice(None), known)
        if kind not in _LINEAR or len(dependent) != 1:
            return 0
        node = dependent[0]


def refuse_missed(output: Sequence[torch.Tensor], known: dict[Node, bool], model: nn.Module) -> None:
    """Refuse a graph in which an operator has a backward path that is not LibraGrad's.

    Raises
    ------
    ValueError
        That names the operator, and the modules that may be meant.
    """
    ahead = [get_gradient_edge(tensor).node for tensor in output if tensor.requires_grad]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if not leads_to(node, known):
            continue
        if _is_missed(node, known):
            raise _missed(node, model)
        for successor, _ in node.next_functions:
            if successor is not None and successor not in seen:
                seen.add(successor)
                ahead.append(successor)


def _is_missed(node: Node, known: dict[Node, bool]) -> bool:
    kind = _kind(node)
    if _is_custom(node):
        return kind not in ("LibraScaled", "LibraValue")
    if kind in _MISSED or kind.startswith("torch::jit"):  # a part of a TorchScript graph as one node
        return True
    if kind.endswith("BatchNorm") and getattr(node, "_saved_training", False):
        return True
    if kind.startswith("ScaledDotProduct"):
        return bool(_dependent(node, slice(0, 2), known))
    if kind == "Pow" and len(node.next_functions) == 2:  # a tensor to the power of one
        return bool(_dependent(node, slice(0, 1), known))
    if kind == "Lerp":
        return bool(_dependent(node, slice(2, 3), known))
    dependent = _dependent(node, _FACTORS.get(kind, slice(None)), known)
    if node.name() in _POWERS:
        return not _is_negative(node) and not any(map(_is_scaled, dependent))
    return len(dependent) > 1 and kind not in _JOINT and not (kind in _FACTORS and any(map(_is_scaled, dependent)))


def _is_scaled(node: Node) -> bool:
    while _kind(node) in _VIEWS:
        following = [successor for successor, _ in node.next_functions if successor is not None]
        if len(following) != 1:
            return False
        (node,) = following
    return _kind(node) == "LibraScaled"


def _missed(node: Node, model: nn.Module) -> ValueError:
    scripted: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in scripted)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            scripted.append(name)
    if _is_custom(node):
        what = f"{_kind(node)} is an autograd.Function of its own"
    elif scripted:
        what = f"{', '.join(scripted)} {'is' if len(scripted) == 1 else 'are'} TorchScript"
    else:
        what = f"{_kind(node)} runs inside TorchScript or C++, or is an operator without a rule"
    return ValueError(
        f"model: {what}, in which LibraGrad can't change the backward; write it in operators of torch's, or explain "
        "with libragrad=False"
    )


def _is_custom(node: object) -> bool:
    """Whether a node is of a Function in Python."""
    return isinstance(node, BackwardCFunction)


def _kind(node: Node) -> str:
    """The operator's name, without what releases of torch put around it."""
    return node.name().rstrip("0123456789").removesuffix("Backward").lstrip("_")


def _dependent(node: Node, places: slice, known: dict[Node, bool]) -> list[Node]:
    return [each for each, _ in node.next_functions[places] if each is not None and leads_to(each, known)]


def _is_negative(node: Node) -> bool:
    # Of a power by a tensor this would read what a checkpoint may have to compute first.
    exponent = getattr(node, "_saved_exponent", None) if node.name() == "PowBackward0" else None
    return isinstance(exponent, (int, float)) and exponent < 0
