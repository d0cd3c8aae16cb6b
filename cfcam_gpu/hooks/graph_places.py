"""Which activations have the image's places by the operations that made them, which autograd has recorded.

Convolutions, pooling, norms and all that works on each number alone leave (B, C, h, w) in the image's order, whichever
module, subclass or hook they run in. Where autograd's graph has nothing else between the images and an activation, it
needs no look; of all others nothing is said here. What a model computes outside of the graph, from a detached tensor
say, is taken for no more than a factor or a summand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, TypeAlias

from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from .evidence import Evidence


class _Other(Enum):
    """What a tensor is that has not the image's places: not made of the image, of all of it alike, or not known."""

    FREE = 1
    WHOLE = 2
    UNKNOWN = 3


#: Of each axis of a map, how much padding a tensor has before and behind, for the convolution or pooling that follows.
_Pads: TypeAlias = tuple[tuple[int, int], ...]
_State: TypeAlias = _Pads | _Other

#: Operations on each number, or on each with statistics of others, by autograd's names.
_POINTWISE = (
    *("Abs", "Add", "Alias", "Clamp", "ClampMax", "ClampMin", "Clone", "Div", "Exp", "Log", "Maximum", "Minimum"),
    *("Mul", "Neg", "Pow", "Rsqrt", "Rsub", "Sqrt", "Sub", "ToCopy"),
    *("Elu", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "LogSigmoid", "Mish", "PreluKernel", "Relu"),
    *("Sigmoid", "Silu", "Softplus", "Tanh", "Threshold", "FusedDropout", "NativeDropout"),
    *("BatchNormWithUpdate", "CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNorm"),
    *("NativeGroupNorm", "NativeLayerNorm"),
)
#: Operations along any axis: where that is the channels' they leave those of a map as they are.
_ALONG_AN_AXIS = ("Amax", "Expand", "Max", "Mean", "Slice", "Split", "SplitWithSizes", "Sum")
_VIEWS = ("ReshapeAlias", "UnsafeView", "View")
_PADS = {"ConstantPadNd": "_saved_pad", "ReflectionPad": "_saved_padding", "ReplicationPad": "_saved_padding"}
#: Digits of dimensions and overloads in autograd's names: MaxPool2DWithIndicesBackward0.
_NUMBERS = re.compile(r"\dD(?=[A-Z])|Backward\d*$")


def with_places(nodes: Iterable[Node | None], source: Node | None, evidence: Evidence) -> set[Node | None]:
    """Those of some nodes of autograd's graph whose tensors have the image's places for certain.

    Parameters
    ----------
    nodes : iterable of Node or None
        Of activations; None where one has none.
    source : Node or None
        Of the images; None where no graph was recorded.
    evidence : Evidence
        Of the same forward.

    Returns
    -------
    set of Node
        Of tensors (B, C, *spatial) whose maps are of the whole image, in the order of its axes.
    """
    found: set[Node | None] = set()
    if source is None:
        return found
    plain: _Pads = ((0, 0),) * len(evidence.size)
    known: dict[Node, _State] = {source: plain}
    for node in nodes:
        path = [] if node is None else [node]
        while path:
            ahead = [one for one, _ in path[-1].next_functions if one is not None and one not in known]
            if ahead and path[-1] not in known:
                path.extend(ahead)
            else:
                last = path.pop()
                known[last] = known.get(last) or _state(last, known, evidence)
        if node is not None and known[node] == plain:
            found.add(node)
    return found


def _state(node: Any, known: dict[Node, _State], evidence: Evidence) -> _State:
    edges = [(one, number) for one, number in node.next_functions if one is not None]
    states = [known[one] for one, _ in edges]
    if all(state is _Other.FREE for state in states):
        return _Other.FREE
    # A function of somebody's own may do anything, whatever its name.
    if isinstance(node, BackwardCFunction) or len(shape := _shape(node)) != len(evidence.whole) + 1:
        return _Other.UNKNOWN
    if all(side == 1 for side in shape[2:]):
        return _Other.WHOLE
    if _Other.UNKNOWN in states:
        return _Other.UNKNOWN
    name = _name(node)
    pads = next((attribute for kind, attribute in _PADS.items() if name.startswith(kind)), None)
    if pads is not None:
        return _padded(states[0], getattr(node, pads))
    rule: Callable[..., _State] | None = _RULES.get(name) or (_resized if name.startswith("Upsample") else None)
    made = _Other.UNKNOWN if rule is None else rule(node, edges, states)
    return made if made is _Other.WHOLE or shape[0] == evidence.batch else _Other.UNKNOWN


def _pointwise(node: Node, edges: Sequence[tuple[Node, int]], states: Sequence[_State]) -> _State:
    """Of operands that have the same places as what is made of them; others may be the same everywhere."""
    shape = _shape(node)
    placed = {state for state in states if not isinstance(state, _Other)}
    if not placed:
        return _Other.WHOLE
    sides = [_shape(*edge)[2:] for edge, state in zip(edges, states) if state in placed]
    # What is shorter along an axis has one position there, by the rules of broadcasting.
    return placed.pop() if len(placed) == 1 and shape[2:] in sides else _Other.UNKNOWN


def _viewed(node: Node, edges: Sequence[tuple[Node, int]], states: Sequence[_State]) -> _State:
    return states[0] if _shape(node) == _shape(*edges[0]) else _Other.UNKNOWN


def _beside(node: Node, edges: Sequence[tuple[Node, int]], states: Sequence[_State]) -> _State:
    # What comes without a graph has channels of its own here, and nobody knows where.
    if len(edges) < len(node.next_functions) or _Other.FREE in states:
        return _Other.UNKNOWN
    return _pointwise(node, edges, states)


def _convolved(node: Any, edges: Sequence[tuple[Node, int]], states: Sequence[_State]) -> _State:
    of_input = node.next_functions[0][0] is not None and not isinstance(states[0], _Other)
    if not of_input or any(state is not _Other.FREE for state in states[1:]):
        return _Other.UNKNOWN
    if not node._saved_transposed:
        kernel = None
        with suppress(RuntimeError):  # a weight that is no parameter isn't kept
            kernel = node._saved_weight.shape[2:]
        return _stepped(node, edges[0], states[0], kernel, node._saved_stride, node._saved_dilation)
    sides = zip(_shape(node)[2:], _shape(*edges[0])[2:], node._saved_stride)
    whole = all(abs(made - side * step) <= step for made, side, step in sides)
    return states[0] if whole and not _any(states[0]) else _Other.UNKNOWN


def _pooled(node: Any, edges: Sequence[tuple[Node, int]], states: Sequence[_State]) -> _State:
    kernel = node._saved_kernel_size
    if isinstance(states[0], _Other):
        return _Other.UNKNOWN
    return _stepped(node, edges[0], states[0], kernel, node._saved_stride or kernel, (1,) * len(kernel))


def _stepped(
    node: Node,
    edge: tuple[Node, int],
    pads: _State,
    kernel: Sequence[int] | None,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> _State:
    """Of windows that go over the image in steps: with no more positions than it has steps they leave it not far.

    What was padded before belongs to the windows where they overlap; else the image ends there.
    """
    assert not isinstance(pads, _Other)
    for axis, (made, side, step) in enumerate(zip(_shape(node)[2:], _shape(*edge)[2:], stride, strict=True)):
        padded = sum(pads[axis])
        if padded and (kernel is None or step > (kernel[axis] - 1) * dilation[axis]):
            return _Other.UNKNOWN
        if made > -((padded - side) // step):
            return _Other.UNKNOWN
    return ((0, 0),) * len(pads)


def _resized(node: Node, edges: Sequence[tuple[Node, int]], states: Sequence[_State]) -> _State:
    """Of the whole, made larger or smaller."""
    sides = zip(_shape(node)[2:], _shape(*edges[0])[2:])
    if states[0] is _Other.WHOLE:
        return _Other.WHOLE
    if _any(states[0]) or any(side == 1 < made for made, side in sides):
        return _Other.UNKNOWN
    return states[0]


def _padded(state: _State, pads: Sequence[int]) -> _State:
    """With padding of the last axis first, as torch has it; what is cut off is a negative number, or loses its sign."""
    if isinstance(state, _Other) or len(pads) > 2 * len(state) or min(pads) < 0:
        return _Other.UNKNOWN
    added = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
    added = [(0, 0)] * (len(state) - len(added)) + added
    return tuple((low + more, high + further) for (low, high), (more, further) in zip(state, added))


def _any(state: _State) -> bool:
    """Whether there is padding, or nothing is known of any."""
    return isinstance(state, _Other) or any(map(any, state))


def _shape(node: Node, number: int = 0) -> tuple[int, ...]:
    return tuple(node._input_metadata[number].shape)


def _name(node: Node) -> str:
    return _NUMBERS.sub("", node.name())


_RULES: dict[str, Callable[..., _State]] = {
    **dict.fromkeys((*_POINTWISE, *_ALONG_AN_AXIS), _pointwise),
    **dict.fromkeys(_VIEWS, _viewed),
    "Cat": _beside,
    "Convolution": _convolved,
    **dict.fromkeys(("AvgPool", "MaxPoolWithIndices"), _pooled),
    **dict.fromkeys(("AdaptiveAvgPool", "AdaptiveMaxPool"), _resized),
}
