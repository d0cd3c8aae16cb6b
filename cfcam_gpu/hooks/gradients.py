"""Gradients of scores with respect to what was reached on the way to them."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import torch
from torch.autograd.graph import Node

from ..targets.request import Score, name_of
from .activation_hook import ActivationHook
from .guard import Survey

#: Targets that one batched backward serves: what it keeps between the layers grows with them.
AT_ONCE = 16


def curvature_of(score: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """The second derivatives of a score (B,) times the activation: zero where the head is linear or constant.

    Raises
    ------
    RuntimeError
        If an operator on the way has none.
    """
    if not score.requires_grad:
        return torch.zeros_like(activation)
    try:
        (first,) = torch.autograd.grad(score.sum(), activation, create_graph=True, allow_unused=True)
        if first is None or not first.requires_grad:
            return torch.zeros_like(activation)
        (second,) = torch.autograd.grad(first, activation, activation.detach(), retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise RuntimeError(
            f"method: it needs second derivatives, and an operator behind the target layer has none ({error})"
        ) from error
    return torch.zeros_like(activation) if second is None else second


def gradients_of(
    survey: Survey, scores: list[torch.Tensor], reached: list[torch.Tensor], hooks: list[ActivationHook]
) -> list[tuple[torch.Tensor, ...]]:
    """Of each of T scores (B,), the gradients with respect to what was reached.

    Code of the user's that watches the backward must see tensors, not batches of them that vmap makes.

    Raises
    ------
    ValueError
        If a score does not depend on one of them.
    """
    dependent = all(score.requires_grad for score in scores)
    by_target: list[tuple[torch.Tensor | None, ...]] = [(None,) * len(reached)]
    if dependent and len(scores) > 1 and not survey.watched():
        by_target = _batched(scores, reached)
    elif dependent:
        by_target = _one_by_one(scores, reached)
    for gradients in by_target:
        for gradient, hook in zip(gradients, hooks):
            if gradient is None:
                raise ValueError(
                    f"target_layer: the target's score does not depend on {hook.layer.name}: it is beside the way to "
                    "the output, or the model cuts the graph behind it (no_grad or detach)"
                )
    return cast(list[tuple[torch.Tensor, ...]], by_target)


def check_callables(
    callables: list[Score], scores: list[torch.Tensor], logits: torch.Tensor | None, activation: torch.Tensor, name: str
) -> None:
    """Refuse a callable whose score does not depend on the layer, where the logits or other callables' scores do.

    The gradient can't tell: in a sum over images, or in a batch of targets, it would be zero, and the map blank.

    Raises
    ------
    ValueError
        That names the callable and the image.
    """
    if not callables:
        return
    known = {torch.autograd.graph.get_gradient_edge(activation).node: True}
    # Of each target the scores of all images, which were stacked.
    of_images = zip(*(() if score.grad_fn is None else score.grad_fn.next_functions for score in scores))
    nodes = [node for of_image in of_images for node, _ in of_image]
    independent = [i for i, node in enumerate(nodes) if node is None or not leads_to(node, known)]
    logits_node = None if logits is None else logits.grad_fn
    if independent and (len(independent) < len(nodes) or (logits_node is not None and leads_to(logits_node, known))):
        called, image = name_of(callables[independent[0]]), independent[0] // len(scores)
        raise ValueError(f"target: what callable {called} returned for image {image} does not depend on {name}")


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


def _one_by_one(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> list[tuple[torch.Tensor | None, ...]]:
    last = len(scores) - 1
    return [
        torch.autograd.grad(score, reached, torch.ones_like(score), retain_graph=t != last, allow_unused=True)
        for t, score in enumerate(scores)
    ]


def _batched(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> list[tuple[torch.Tensor | None, ...]]:
    """The same by backward passes that serve many targets each.

    One by one where an operator has no batched form, or memory does not suffice.
    """
    with suppress(RuntimeError):
        return _many_at_once(scores, reached)
    return _one_by_one(scores, reached)


def _many_at_once(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> list[tuple[torch.Tensor | None, ...]]:
    by_target: list[tuple[torch.Tensor | None, ...]] = []
    for first in range(0, len(scores), AT_ONCE):
        # Of these alone: each pass would else go through the heads of all targets.
        sums = torch.stack(scores[first : first + AT_ONCE]).sum(dim=1)
        unit_vectors = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        batched = torch.autograd.grad(
            sums, reached, unit_vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        by_target += zip(*([None] * len(sums) if gradients is None else gradients.unbind() for gradients in batched))
    return by_target
