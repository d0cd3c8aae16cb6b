"""Which operators of a graph no ONNX operator stands for, and where the model has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import fx, nn
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ...hooks import own_thread
from ...hooks.guard import guarded
from ..tensorrt import TOO_MANY_ORDERED

aten = torch.ops.aten

#: What torch's exporter takes apart into something that it has no operator for.
_BEYOND = {
    aten.cummin.default, aten.cumprod.default, aten.diagonal_scatter.default, aten.hypot.default, aten.prod.dim_int,
}  # fmt: skip
#: Why, where the operator's name doesn't say it.
_REASONS = {
    "convolution_backward": "weights that depend on the images",
    "convolution": "an output padding of a stride or more",
    "index_put": "a gradient through a boolean mask",
    "_fft_r2c": "complex numbers",
    "_fft_c2c": "complex numbers",
    "_fft_c2r": "complex numbers",
}


def backward_missing(graph: fx.Graph, *, tensorrt: bool = False) -> list[str]:
    """The names of the operators that can't be exported, ``aten.median.dim``, say, each once, in their order.

    Parameters
    ----------
    graph : torch.fx.Graph
        As traced with :func:`~cfcam_gpu.deploy.operators.decompositions`. Operators that draw random numbers are among
        those named: no two calls would give one map.
    tensorrt : bool
        Whether those that TensorRT lacks count, too.
    """
    nodes = [node for node in graph.nodes if node.op == "call_function" and isinstance(node.target, OpOverload)]
    refused = (node for node in nodes if not _is_exported(node) or (tensorrt and _is_beyond_tensorrt(node)))
    return list(dict.fromkeys(str(node.target) for node in refused))


def check(graph: fx.GraphModule, model: nn.Module, images: torch.Tensor, *, tensorrt: bool) -> None:
    """Refuse a graph that has operators without an ONNX form.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        Of the model's forward and its head's backward.
    model : torch.nn.Module
        Is run once with the images, where something is refused, to find the modules that it comes from.
    images : (B, C, ...) tensor
    tensorrt : bool
        Whether those that TensorRT lacks are refused, too.

    Raises
    ------
    ValueError
        If there are any; the message names each, and the modules.
    """
    missing = backward_missing(graph.graph, tensorrt=tensorrt)
    if not missing:
        return
    places = _modules_with([_stem(name) for name in missing], model, images)
    described = [_described(name, places.get(_stem(name), [])) for name in missing]
    runtime = "TensorRT" if tensorrt else "ONNX"
    raise ValueError(
        f"model: expected operators that {runtime} has; got {', '.join(described)}. docs/operators.md lists what is "
        "covered; choose a target layer behind it, or have the model compute it in another way"
    )


def _is_exported(node: fx.Node) -> bool:
    operator = node.target
    assert isinstance(operator, OpOverload)
    if isinstance(value := node.meta.get("val"), torch.Tensor) and value.is_complex():
        return False
    if operator is aten.convolution.default and _has_wide_output_padding(node):
        return False
    if torch.Tag.nondeterministic_seeded in operator.tags or operator in _BEYOND or _has_boolean_index(node):
        return False
    return _has_onnx(operator) or operator in decomposition_table


@cache
def _onnx_registry() -> Any:
    """What torch's exporter has an ONNX form of; None where the library that holds these is missing."""
    if find_spec("onnxscript") is None:
        return None
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib()


@cache
def _has_onnx(operator: OpOverload) -> bool:
    registry = _onnx_registry()
    return registry is None or operator.namespace != "aten" or bool(registry.is_registered(operator))


def _has_wide_output_padding(node: fx.Node) -> bool:
    """Whether a transposed convolution adds a stride or more to its output, which ONNX has no form of."""
    stride, transposed, added = node.args[3], node.args[6], node.args[7]
    return bool(transposed) and any(more >= step for more, step in zip(added, stride))  # type: ignore[arg-type]


def _has_boolean_index(node: fx.Node) -> bool:
    """Whether values are put where a mask is, beside whole axes, which torch's exporter refuses."""
    if node.target is not aten.index_put.default:
        return False
    indices = [each.meta.get("val") if isinstance(each, fx.Node) else each for each in node.args[1]]  # type: ignore[union-attr]
    masks = [isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in indices]
    return any(masks) and len(masks) > 1


def _is_beyond_tensorrt(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
        return True
    if node.target is aten.topk.default:
        return int(node.args[1]) >= TOO_MANY_ORDERED  # type: ignore[arg-type]
    return node.target in (aten.nonzero.default, aten.sort.default, aten.sort.stable)


def _stem(name: str) -> str:
    """What a forward calls it: ``index`` of ``aten.index_put.default``, which is its derivative."""
    operator = name.split(".")[1].rstrip("_")
    for suffix in ("_backward", "_forward", "_scatter", "_put"):
        operator = operator.removesuffix(suffix)
    return operator


def _described(name: str, modules: Iterable[str]) -> str:
    operator = name.split(".")[1]
    reason = f" ({_REASONS[operator]})" if operator in _REASONS else ""
    places = ", ".join(modules)
    return f"{name}{reason} in {places}" if places else f"{name}{reason}"


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each operator that runs, of convolutions those whose weights are no parameters."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tell = tell

    def __torch_dispatch__(
        self, function: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is not aten.convolution.default or not isinstance(args[1], nn.Parameter):
            self._tell(_stem(f"aten.{function.overloadpacket.__name__}"))
        return function(*args, **(kwargs or {}))


def _modules_with(stems: list[str], model: nn.Module, images: torch.Tensor) -> dict[str, list[str]]:
    """For each operator the modules that run it in a forward, innermost names."""
    inside: list[str] = []
    found: dict[str, list[str]] = {}

    def enter(name: str, module: nn.Module, args: Any) -> None:
        inside.append(f"{name} ({type(module).__name__})" if name else type(module).__name__)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    def note(stem: str) -> None:
        if stem in stems and inside and inside[-1] not in found.setdefault(stem, []):
            found[stem].append(inside[-1])

    handles = []
    for name, module in own_thread.hookable(model):
        handles += [own_thread.before(module, partial(enter, name)), own_thread.after(module, leave)]
    with guarded(model), torch.no_grad(), own_thread.hooked(handles), _Calls(note):
        model(images)
    return found
