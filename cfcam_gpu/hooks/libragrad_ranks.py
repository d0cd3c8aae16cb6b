"""What weighs in a product, and what is a feature, as autograd's graph tells.

What comes from the activation by homogeneous operators alone, of which f(a x) is a f(x), is a feature. A value is a
gate where every way to it has an operator that is not, a softmax or a sigmoid, whatever homogeneous ones follow. A
product with a feature makes a feature again: LibraGrad takes the gate as a constant there, so that the graph does not
lead to it from behind the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch.autograd.graph import Node

from .autograd_graph import leads_to, node_of, successors


class Rank(IntEnum):
    """How much a factor of a product is there to weigh the others: those above the lowest do.

    An operator of an unknown rank may weigh or not. It has the second lowest, so that it is clear where it meets
    features in a sum, which are left to be features.
    """

    FEATURE = 0
    UNKNOWN = 1
    ACTIVATION = 2
    GATE = 3
    CONSTANT = 4


#: Operators that are not homogeneous.
_NOT_HOMOGENEOUS = {
    **dict.fromkeys(
        (
            *("Acos", "Acosh", "Angle", "Asin", "Asinh", "Atan", "Atan2", "Atanh", "Celu", "Clamp", "Cos", "Cosh"),
            *("Elu", "Fmod", "Frac", "Hardtanh", "Log", "Log10", "Log1P", "Log2", "LogSigmoid", "LogSoftmax"),
            *("Logaddexp", "Logcumsumexp", "Logit", "Logsumexp", "Remainder", "Sin", "Sinc", "Sinh", "Softplus"),
            *("Softshrink", "Tan", "Tanh"),
        ),
        Rank.ACTIVATION,
    ),
    **dict.fromkeys(
        (
            *("Erf", "Erfc", "Exp", "Exp2", "Expm1", "Hardsigmoid", "MaskedSoftmax", "Reciprocal", "Rsqrt"),
            *("SafeSoftmax", "Sigmoid", "Softmax"),
        ),
        Rank.GATE,
    ),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sgn", "Sign", "Trunc", "Zero"), Rank.CONSTANT),
}

#: Operators that are homogeneous in their first argument, and not in the second, where that alone depends.
_BY_SECOND = {"Div": Rank.GATE, "GridSampler2D": Rank.ACTIVATION, "GridSampler3D": Rank.ACTIVATION}

#: Operators that write what they get second over all that they get first.
_OVERWRITE = {"Fill", "torch::autograd::CopyBackwards"}

#: Operators that leave the values as they are.
VIEWS = {
    *("Alias", "AsStrided", "Clone", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze", "T", "ToCopy"),
    *("Transpose", "Unsqueeze", "UnsafeView", "View"),
}

#: Those that take some of them, or put them in another order.
_PICKS = {
    *("ChannelShuffle", "Chunk", "Diagonal", "Flip", "Gather", "Index", "IndexSelect", "MaskedSelect"),
    *("PixelShuffle", "PixelUnshuffle", "Repeat", "Roll", "Rot90", "Sort", "Split", "SplitWithSizes", "Take", "Topk"),
    *("Unbind", "Unfold", "UnsafeIndex", "UnsafeSplit", "UnsafeSplitWithSizes"),
}

#: Operators that are homogeneous in all that they get together: any number of these may be features.
JOINT = {
    *("Add", "AsStridedScatter", "Cat", "Cdist", "Clamp", "ClampMax", "ClampMin", "Complex", "DiagonalScatter", "Dist"),
    *("EuclideanDist", "Fill", "Fmax", "Fmin", "Hypot", "IndexAdd", "IndexCopy", "IndexFill", "IndexPut"),
    *("IndexPutImpl", "MaskedFill", "MaskedScatter", "Maximum", "Minimum", "Put", "Rsub", "Scatter", "ScatterAdd"),
    *("SelectScatter", "SliceScatter", "Stack", "Sub", "UnsafeIndexPut", "Where"),
    *("torch::autograd::CopyBackwards", "torch::autograd::CopySlices"),
}

#: Products, which are homogeneous as LibraGrad takes them.
_PRODUCTS = {
    *("Addbmm", "Addcmul", "Addmm", "Addmv", "Addr", "Baddbmm", "Bmm", "Convolution", "Div", "Dot", "Lerp"),
    *("LinalgCross", "Linear", "MkldnnLinear", "Mm", "Mul", "Mv", "PreluKernel", "Trilinear", "Vdot"),
}

_HOMOGENEOUS = {
    *VIEWS,
    *_PICKS,
    *JOINT,
    *_PRODUCTS,
    *("LibraScaled", "LibraValue"),
    *("Abs", "Amax", "Amin", "Aminmax", "Col2Im", "Conj", "ConjPhysical", "ConstantPadNd", "Cummax", "Cummin"),
    *("Cumsum", "Deg2Rad", "DiagEmbed", "FusedDropout", "Hardshrink", "Im2Col", "Kthvalue", "LeakyRelu", "Max", "Mean"),
    *("Median", "Min", "Mode", "NanToNum", "Nanmedian", "Nansum", "NativeDropout", "Neg", "NegView", "Norm"),
    *("LinalgVectorNorm", "Pow", "Rad2Deg", "Relu", "RreluWithNoise", "Sqrt", "Std", "StdMean", "Sum", "Threshold"),
    *("Trace", "Tril", "Triu", "Var", "ViewAsComplex", "ViewAsReal"),
    *("BatchNormWithUpdate", "CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNorm", "NativeBatchNormLegit"),
    *("BatchNormNoUpdate", "NativeBatchNormLegitNoTraining"),
}

#: What the names of others that are homogeneous begin with.
_FAMILIES = (
    *("AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "Fft", "FractionalMaxPool", "GridSampler", "MaxPool"),
    *("MaxUnpool", "ReflectionPad", "ReplicationPad", "ScaledDotProduct", "Upsample"),
)


#: Operators that leave the elements of what they get beside each other, or add them up one by one.
_ELEMENTWISE = {"LibraScaled", *VIEWS, *_PICKS, *JOINT}


class Ranks:
    """The ranks of what depends on activations.

    Parameters
    ----------
    known : dict of Node to bool
        See :func:`cfcam_gpu.hooks.autograd_graph.leads_to`.
    """

    def __init__(self, known: dict[Node, bool]) -> None:
        self._known = known
        self._ranks: dict[Node, Rank] = {}

    def of(self, factor: torch.Tensor) -> Rank:
        """The rank of a tensor that depends on an activation."""
        return self.behind(node_of(factor))

    def behind(self, root: Node) -> Rank:
        """The same of a node: its operator's, or the least of what a homogeneous one gets."""
        path = [root]
        while path:
            node = path[-1]
            if node in self._ranks:
                path.pop()
                continue
            own = self._own(node)
            inputs = self._inputs(node) if own is None else []
            unvisited = [each for each in inputs if each not in self._ranks]
            if unvisited:
                path += unvisited
            else:
                path.pop()
                self._ranks[node] = min(self._ranks[each] for each in inputs) if own is None else own
        return self._ranks[root]

    def unknown(self, root: Node) -> Node | None:
        """The operator for which a node's rank is unknown; None where it is known."""
        node = root
        while self.behind(node) == Rank.UNKNOWN:
            if self._own(node) == Rank.UNKNOWN:
                return node
            node = next(each for each in self._inputs(node) if self.behind(each) == Rank.UNKNOWN)
        return None

    def gate_among_features(self, root: Node) -> Node | None:
        """The operator of a gate that was added to features, or put beside them, element by element."""
        if self.behind(root) >= Rank.GATE:
            return None
        ahead = [root]
        seen = set(ahead)
        while ahead:
            node = ahead.pop()
            gate = self.behind(node) >= Rank.GATE
            if gate and self._own(node) is not None:
                return node
            if gate or kind_of(node) in _ELEMENTWISE:
                following = [each for each in self._inputs(node) if each not in seen]
                seen.update(following)
                ahead += following
        return None

    def _own(self, node: Node) -> Rank | None:
        """The rank that an operator gives what it returns, whatever it gets; None of one that is homogeneous."""
        kind = kind_of(node)
        if not self._inputs(node):  # a constant over what was there, or the activation itself
            return Rank.CONSTANT if kind in _OVERWRITE else Rank.FEATURE
        if kind in _BY_SECOND and not dependent(node, slice(0, 1), self._known):
            return _BY_SECOND[kind]
        if kind == "Pow" and (node.name() != "PowBackward0" or is_negative(node)):
            return Rank.GATE  # a number to the power of features, or a reciprocal
        if kind in _NOT_HOMOGENEOUS:
            return _NOT_HOMOGENEOUS[kind]
        return None if kind in _HOMOGENEOUS or kind.startswith(_FAMILIES) else Rank.UNKNOWN

    def _inputs(self, node: Node) -> Sequence[Node]:
        return dependent(node, slice(1, 2) if kind_of(node) in _OVERWRITE else slice(None), self._known)


def kind_of(node: Node) -> str:
    """The operator's name, without what releases of torch put around it."""
    return node.name().rstrip("0123456789").removesuffix("Backward").lstrip("_")


def dependent(node: Node, places: slice, known: dict[Node, bool]) -> list[Node]:
    """What an operator gets at some places and that hangs on an activation."""
    return [each for each in successors(node)[places] if each is not None and leads_to(each, known)]


def is_negative(node: Node) -> bool:
    """Whether a node is a power by a negative number."""
    # Of a power by a tensor this would read what a checkpoint may have to compute first.
    exponent = getattr(node, "_saved_exponent", None) if node.name() == "PowBackward0" else None
    return isinstance(exponent, (int, float)) and exponent < 0
