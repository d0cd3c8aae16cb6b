"""The automatic choice of layers in a detector: what its boxes and its classes are both made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node

from ..hooks import own_thread
from ..hooks.autograd_graph import node_of, reached_from
from ..hooks.capture import taken
from ..hooks.choice import Choice
from ..hooks.forward_trace import Activation
from ..hooks.guard import guarded
from ..hooks.target_layer import TargetLayer
from ..targets.outputs import first_tensor, samples
from ..targets.per_image import ListsOf
from ..targets.request import Request

#: From an image's part of an output scores of classes, and coordinates of boxes, both with autograd's graph.
Roots = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]

#: How many scores tell whether each depends on all scales.
_SOME = 8


def choose(model: nn.Module, images: torch.Tensor, roots: Roots) -> tuple[TargetLayer, ...]:
    """The activations that all boxes and their classes are made of, the finest first: one of each resolution.

    A detector's head parts into a branch for classes and one for boxes, and may do so at each of several scales. What
    enters it is the last that a class and its box have in common. Where a box is of one scale alone, as YOLO's, that
    is little more than a place, and the last activations are taken that the heads of all scales depend on. Where a box
    reads all scales, as that of a decoder with attention, it is what enters the decoder. An activation of which a score
    reads one position alone, as what a head of 1 x 1 convolutions is given, says nothing of where: what it is made of
    does.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used.
    roots : callable

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    return _HeadChoice(model, images, roots).layers


class _Seen(NamedTuple):
    """An activation that a class and its box depend on, and where it is in the graph of a forward with values.

    `wide` tells whether all of some scores read more than one of its positions, or of a later activation's.
    """

    activation: Activation
    node: Node
    tensor: torch.Tensor
    wide: bool


class _HeadChoice(Choice):
    """A choice whose last activation is the coarsest that a detector's head is given."""

    layers: tuple[TargetLayer, ...]

    def __init__(self, model: nn.Module, images: torch.Tensor, roots: Roots) -> None:
        self._roots = roots

        def both(sample: Any) -> torch.Tensor:
            scores, boxes = roots(sample)
            return scores.float().sum() + boxes.float().sum()

        both.whole_output = True  # type: ignore[attr-defined]
        super().__init__(model, images, Request(scores=(both,) * len(images)))

    def _last(self) -> Activation:
        chosen = self._chosen()
        if not chosen:
            raise ValueError(
                "target_layer: found no activation with positions that both the boxes and their classes depend on; "
                "name the layer to use, one that the detector's head is given"
            )
        chosen = sorted(chosen, key=lambda one: -prod(_grid(one)))
        what = "the last activation of its resolution that all boxes and their classes are made of"
        named = [self.named(one, what) for one in chosen]
        self.layers = tuple(layer for layer in named if layer is not None)
        return chosen[-1]

    def _chosen(self) -> list[Activation]:
        if not self.trace.activations:
            return []
        shared, scores = taken(self.model, self.trace.activations[-1].name, self._shared)
        shared = _without_places(shared)
        ends = {_grid(one.activation): one for one in shared}
        nodes = {one.node for one in ends.values()}
        entered = _up_to(nodes, [scores.grad_fn])
        inputs = [one for one in ends.values() if one.node in entered]
        if len(inputs) < 2 or _read_all(scores, [one.tensor for one in inputs]):
            return [one.activation for one in inputs]
        behind = [reached_from([one.node]) for one in inputs]
        finest = max(prod(_grid(one.activation)) for one in inputs)
        common = {
            _grid(one.activation): one.activation
            for one in shared
            if all(one.node in each for each in behind) and prod(_grid(one.activation)) <= finest
        }
        return list(common.values()) or [one.activation for one in inputs]

    def _shared(self) -> tuple[list[_Seen], torch.Tensor]:
        """What both classes and boxes have a gradient with respect to, and all scores."""
        of_image = (self.trace.evidence.entry_shape or self.trace.images.shape)[1]
        asked = [one for one in self.trace.activations if one.channels != of_image]
        states = [one for one in self.settled(asked) if not self._projected(one)]
        named = [(one, layer) for one in states if (layer := self.named(one, "")) is not None]
        # What enters a projection of tokens may be the keys of attention alone, with positions added to them.
        named = [pair for pair in named if not (pair[1].takes_input and isinstance(pair[1].module, nn.Linear))]
        passed: dict[int, torch.Tensor] = {}

        def keep(place: int, value: Any) -> Any:
            tensor = first_tensor(value)
            if tensor is not None and tensor.requires_grad:
                passed[place] = tensor
            return value

        images = self.trace.images
        handles = (layer.hook(partial(keep, place)) for place, (_, layer) in enumerate(named))
        with guarded(self.model), torch.enable_grad(), own_thread.hooked(handles):
            output = self.model(images.detach().clone().requires_grad_())
            scores, boxes = self._roots(samples(output, len(images), ListsOf(self.model, images))[0])
            if not scores.requires_grad:
                raise ValueError(
                    "model: expected scores with their gradients; autograd has no way from them to the image: the "
                    "model, or find=, makes them under no_grad, detaches them or takes them through numpy"
                )
            tensors = list(passed.values())
            of_scores = _gradients(scores.float().sum(), tensors)
            # Of corners made of a centre and a size, a plain sum has no part of the size.
            of_boxes = _gradients((boxes.float() * boxes.new_tensor([1.0, 2.0, 3.0, 5.0])).sum(), tensors)
            read = [named[place][0] for place in passed]
            narrow: set[int] = set()
            for one in _some(scores):
                counts = list(map(_positions, read, _gradients(one, tensors)))
                # A coarse cell may be all that a score reads of an activation, though of a later one it reads more.
                last = max((i for i, count in enumerate(counts) if count > 1), default=-1)
                narrow |= {i for i, count in enumerate(counts) if count == 1 and i > last}
        found = []
        for i, (place, tensor, score, box) in enumerate(zip(passed, tensors, of_scores, of_boxes)):
            activation = named[place][0]
            assert activation.layout is not None
            if _are_boxes(activation, len(scores)):
                continue
            # Boxes that are the same for all images tell nothing.
            parts = (score, box) if boxes.requires_grad else (score,)
            of_positions = (None if one is None else activation.layout.to_maps(one) for one in parts)
            if all(_any(one) for one in of_positions):
                found.append(_Seen(activation, node_of(tensor), tensor, i not in narrow))
        return found, scores


def _without_places(shared: list[_Seen]) -> list[_Seen]:
    """Some activations without those of which a score reads one position alone; if that is all, the first of them.

    Nor what is beside the way from those to the ones before them: of two branches, say, that a block adds up.
    """
    by_grid: dict[tuple[int, ...], list[_Seen]] = {}
    for one in shared:
        by_grid.setdefault(_grid(one.activation), []).append(one)
    kept: set[Node] = set()
    for alike in by_grid.values():
        wide = [one for one in alike if one.wide]
        if not alike[-1].wide:
            start = [alike[-1].node]
            while wide and _up_to({one.node for one in wide}, start) != {wide[-1].node}:
                wide.pop()
        kept |= {one.node for one in wide}
    return [one for one in shared if one.node in kept] or shared[:1]


def _read_all(scores: torch.Tensor, inputs: list[torch.Tensor]) -> bool:
    """Whether each of some scores depends on all inputs of a head: those of the finest scale need no coarser one."""
    return all(all(map(_any, _gradients(score, inputs))) for score in _some(scores))


def _some(scores: torch.Tensor) -> torch.Tensor:
    return scores.flatten()[:: max(1, scores.numel() // _SOME)]


def _positions(activation: Activation, gradient: torch.Tensor | None) -> int:
    """How many positions of an activation have a gradient."""
    if gradient is None:
        return 0
    assert activation.layout is not None
    return int(activation.layout.to_maps(gradient)[0].any(dim=0).sum())


def _gradients(score: torch.Tensor, tensors: list[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    if not tensors or not score.requires_grad:
        return (None,) * len(tensors)
    return torch.autograd.grad(score, tensors, retain_graph=True, allow_unused=True)


def _are_boxes(activation: Activation, count: int) -> bool:
    """Whether tokens are a decoder's, one for each of `count` boxes: some may look as if they lay in a small grid."""
    layout = activation.layout
    assert layout is not None
    return layout.extras > 0 and layout.tokens == count


def _any(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _up_to(ends: Collection[Node], roots: Iterable[Node | None]) -> set[Node]:
    """Those of some nodes that autograd's graph leads to from the roots past no other of them."""
    ahead = [root for root in roots if root is not None]
    found = set(ahead)
    while ahead:
        node = ahead.pop()
        if node in ends:
            continue
        for behind, _ in node.next_functions:
            if behind is not None and behind not in found:
                found.add(behind)
                ahead.append(behind)
    return found & set(ends)


def _grid(activation: Activation) -> tuple[int, ...]:
    assert activation.layout is not None
    return activation.layout.grid
