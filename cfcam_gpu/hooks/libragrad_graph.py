"""What LibraGrad writes into autograd's graph, and what it reads there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils.checkpoint import CheckpointFunction

from .activation_hook import scripted_parts
from .autograd_graph import leads_to, node_of, successors
from .gradients import reentrant
from .libragrad_ranks import JOINT, VIEWS, Ranks, dependent, is_negative, kind_of

#: Those with a rule, which are not seen in a graph where it was applied, and those that have none and need one.
_MISSED = {
    *("CosineSimilarity", "Cumprod", "FusedRmsNorm", "Gelu", "Glu", "Hardswish", "Mish", "NativeGroupNorm"),
    *("NativeLayerNorm", "Prod", "Silu", "VarMean"),
    *("CudnnRnn", "LstmMps", "MiopenRnn", "MkldnnRnnLayer", "ThnnFusedGruCell", "ThnnFusedLstmCell"),
}

#: Powers by a number, of which a rule scales what they get.
_POWERS = ("PowBackward0", "SqrtBackward0", "VarBackward0")

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


def refuse_missed(
    output: Sequence[torch.Tensor], known: dict[Node, bool], ranks: Ranks, model: nn.Module, layer: str
) -> None:
    """Refuse a graph in which an operator has a backward path that is not LibraGrad's.

    Raises
    ------
    ValueError
        That names the operator, and the modules that may be meant.
    """
    ahead = [node_of(tensor) for tensor in output if tensor.requires_grad]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if not leads_to(node, known):
            continue
        if getattr(node, "_forward_cls", None) is CheckpointFunction:
            raise reentrant(layer)
        if _is_missed(node, known):
            raise _missed(node, model)
        if kind_of(node) == "LibraScaled":
            _refuse_unclear(node, ranks)
        for successor in successors(node):
            if successor is not None and successor not in seen:
                seen.add(successor)
                ahead.append(successor)


def _refuse_unclear(factor: Node, ranks: Ranks) -> None:
    """Refuse to multiply, with its part in the gradient, what may weigh."""
    if (unknown := ranks.unknown(factor)) is not None:
        what = f"{kind_of(unknown)}, an operator of which LibraGrad does not know whether it is a gate"
    elif (gate := ranks.gate_among_features(factor)) is not None:
        what = f"features and a gate ({kind_of(gate)}) in one tensor, which LibraGrad can't tell apart"
    else:
        return
    raise ValueError(
        f"model: expected factors of a product that are features or gates; one is of {what}; write the model such that "
        "gates multiply features on their own, or explain with libragrad=False"
    )


def _is_missed(node: Node, known: dict[Node, bool]) -> bool:
    kind = kind_of(node)
    if _is_custom(node):
        return kind not in ("LibraScaled", "LibraValue")
    if kind in _MISSED or kind.startswith("torch::jit"):  # a part of a TorchScript graph as one node
        return True
    if kind.endswith("BatchNorm") and getattr(node, "_saved_training", False):
        return True
    if kind.startswith("ScaledDotProduct"):
        return bool(dependent(node, slice(0, 2), known))
    if kind == "Pow" and len(node.next_functions) == 2:  # a tensor to the power of one
        return bool(dependent(node, slice(0, 1), known))
    if kind == "Lerp":
        return bool(dependent(node, slice(2, 3), known))
    meeting = dependent(node, _FACTORS.get(kind, slice(None)), known)
    if node.name() in _POWERS:
        return not is_negative(node) and not any(map(_is_scaled, meeting))
    return len(meeting) > 1 and kind not in JOINT and not (kind in _FACTORS and any(map(_is_scaled, meeting)))


def _is_scaled(node: Node) -> bool:
    while kind_of(node) in VIEWS:
        following = [each for each in successors(node) if each is not None]
        if len(following) != 1:
            return False
        (node,) = following
    return kind_of(node) == "LibraScaled"


def _missed(node: Node, model: nn.Module) -> ValueError:
    scripted = scripted_parts(model)
    if _is_custom(node):
        what = f"{kind_of(node)} is an autograd.Function of its own"
    elif scripted:
        what = f"{', '.join(scripted)} {'is' if len(scripted) == 1 else 'are'} TorchScript"
    else:
        what = f"{kind_of(node)} runs inside TorchScript or C++, or is an operator without a rule"
    return ValueError(
        f"model: {what}, in which LibraGrad can't change the backward; write it in operators of torch's, or explain "
        "with libragrad=False"
    )


def _is_custom(node: object) -> bool:
    """Whether a node is of a Function in Python."""
    return isinstance(node, BackwardCFunction)
