"""Ways through the graph that autograd records."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.autograd.graph import Node


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


def depends(later: torch.Tensor, earlier: torch.Tensor) -> bool:
    """Whether autograd has a way from the one to the other."""
    edge = torch.autograd.graph.get_gradient_edge
    return later.requires_grad and edge(earlier).node in reached_from([edge(later).node])


def leads_to(node: Node, known: dict[Node, bool]) -> bool:
    """Whether a graph has one of the nodes that are `known` to be true; what is found on the way joins them."""
    path = [node]
    while path:
        successors = [successor for successor, _ in path[-1].next_functions if successor is not None]
        unvisited = next((successor for successor in successors if successor not in known), None)
        if path[-1] in known or unvisited is None or any(known.get(successor) for successor in successors):
            visited = path.pop()
            known.setdefault(visited, any(known.get(successor, False) for successor in successors))
        else:
            path.append(unvisited)
    return known[node]
