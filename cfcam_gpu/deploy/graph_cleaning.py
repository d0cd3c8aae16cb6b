"""What tracing leaves in a graph and no runtime needs to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
#: What gives its argument again, where no value is written to: the graph is functional.
_COPIES = {_aten.clone.default, _aten.detach.default, _aten.alias.default, _aten.lift_fresh_copy.default}
_VIEWS = {_aten.view.default, _aten._unsafe_view.default}
_ZEROS = {_aten.zeros.default, _aten.new_zeros.default, _aten.zeros_like.default}


def clean(graph: fx.GraphModule) -> None:
    """Take out copies, zeros that are added, conversions to the same dtype, and what nothing depends on; in place.

    The zeros at a layer are there to be differentiated by. As an operator, each would go over the whole activation.
    Views become reshapes: what comes before may give other strides wherever the graph runs next.
    """
    for node in list(graph.graph.nodes):
        if node.target in _VIEWS:
            node.target = _aten.reshape.default
        if node.op == "call_function" and (kept := _same_as(node)) is not None:
            node.replace_all_uses_with(kept)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _same_as(node: fx.Node) -> fx.Node | None:
    """The argument of a node that has the same value."""
    first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if first is None or not _alike(node, first):
        return None
    if node.target in _COPIES or node.target in (_aten._to_copy.default, _aten.to.dtype, _aten.expand.default):
        return first
    if node.target is _aten.add.Tensor and len(node.args) > 1:
        second = node.args[1]
        if _is_zeros(second):
            return first
        if _is_zeros(first) and isinstance(second, fx.Node) and node.kwargs.get("alpha", 1) == 1:
            return second if _alike(node, second) else None
    return None


def _is_zeros(value: Any) -> bool:
    if not isinstance(value, fx.Node):
        return False
    return value.target in _ZEROS or (value.target is _aten.full.default and bool(value.args[1] == 0))


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether both are tensors of one shape and dtype."""
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return a.dtype == b.dtype and a.ndim == b.ndim and all(m is n or bool(m == n) for m, n in zip(a.shape, b.shape))
