"""A traced graph with less to compute."""

from __future__ import annotations

import torch
from torch import fx
from torch._functorch.compile_utils import fx_graph_cse
from torch._ops import OpOverload

aten = torch.ops.aten

#: Elementwise, and broadcasting: with one value for each channel, they need no copy of it for each position.
_BROADCASTING = {aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor}
_BY_NUMBER = {aten.mul.Scalar, aten.div.Scalar, *_BROADCASTING}


def is_functional(graph: fx.GraphModule) -> bool:
    """Whether no operator of a graph writes to its arguments."""
    operators = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    return not any(isinstance(each, OpOverload) and each._schema.is_mutable for each in operators)


def simplify(graph: fx.GraphModule) -> None:
    """Compute what is there twice once, and what is one value for many positions for one of these; in place.

    Behind a global pooling the gradient is that: one value for each channel.
    """
    once = fx_graph_cse(graph.graph)
    once.set_codegen(graph.graph._codegen)  # how the arguments are nested
    graph.graph = once
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is aten.expand.default:
            _delay(graph.graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _delay(graph: fx.Graph, expand: fx.Node) -> None:
    """Have the users of an expanded tensor take the one that it was, where they give the same of it."""
    small = expand.args[0]
    if not isinstance(small, fx.Node):
        return
    for user in list(expand.users):
        if user.target in _BY_NUMBER and user.args[0] is expand and not isinstance(user.args[1], fx.Node):
            with graph.inserting_before(user):
                less = graph.call_function(user.target, (small, *user.args[1:]), user.kwargs)
                again = graph.call_function(aten.expand.default, (less, *expand.args[1:]))
            less.meta["val"] = user.target(small.meta["val"], *user.args[1:], **user.kwargs)
            again.meta = dict(user.meta)
            user.replace_all_uses_with(again)
            graph.erase_node(user)
            _delay(graph, again)
        elif user.target in _BROADCASTING and _has_shape_without(user, expand):
            user.args = tuple(small if each is expand else each for each in user.args)


def _has_shape_without(node: fx.Node, expand: fx.Node) -> bool:
    """Whether the other operand alone is as large as the result."""
    others = [each for each in node.args[:2] if each is not expand]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return False
    return _shape(others[0]) == _shape(node)


def _shape(node: fx.Node) -> tuple[object, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
