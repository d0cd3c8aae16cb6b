"""Ways through the graph that autograd records."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.modules._functions import BackwardHookFunction


def successors(node: Node) -> list[Node | None]:
    """What autograd's graph has right behind a node, None for what needs no gradient.

    A module's backward hooks put an identity there, one for all tensors that enter or leave the module: of these only
    the one that is meant is behind it.
    """
    return [_past_hooks(*edge) for edge in node.next_functions]


def node_of(tensor: torch.Tensor) -> Node:
    """The node that a tensor which needs a gradient comes from."""
    # A class of tensors that makes views its own (MONAI's MetaTensor) would have a node of its making in between.
    with torch._C.DisableTorchFunctionSubclass():
        edge = get_gradient_edge(tensor)
    node = _past_hooks(edge.node, edge.output_nr)
    assert node is not None
    return node


def _past_hooks(node: Node | None, place: int) -> Node | None:
    while getattr(node, "_forward_cls", None) is BackwardHookFunction:
        assert node is not None
        node, place = node.next_functions[place]
    return node


def reached_from(roots: Iterable[Node | None]) -> set[Node]:
    """All that autograd's graph has behind some nodes, those included."""
    ahead = [root for root in roots if root is not None]
    found = set(ahead)
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if node is not None and node not in found:
                found.add(node)
                ahead.append(node)
    return found


def depends(tensor: torch.Tensor, known: dict[Node, bool]) -> bool:
    """Whether autograd has a way from a tensor to a node that is `known` to be true; see :func:`leads_to`."""
    return tensor.requires_grad and leads_to(node_of(tensor), known)


def leads_to(node: Node, known: dict[Node, bool]) -> bool:
    """Whether a graph has one of the nodes that are `known` to be true; what is found on the way joins them."""
    path = [node]
    while path:
        behind = [each for each in successors(path[-1]) if each is not None]
        unvisited = next((each for each in behind if each not in known), None)
        if path[-1] in known or unvisited is None or any(known.get(each) for each in behind):
            visited = path.pop()
            known.setdefault(visited, any(known.get(each, False) for each in behind))
        else:
            path.append(unvisited)
    return known[node]
