"""What passes the hooks of a model's modules in one forward: every activation that has a grid."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from ..core.finite import NotFiniteError
from ..targets.outputs import first_tensor, logits_of, tensors_in
from ..targets.request import Request, logits_for, resolve
from . import own_thread
from .autograd_graph import reached_from
from .evidence import Evidence
from .graph_places import with_places
from .laying_out import as_it_is, plausible, with_one
from .layouts import Layout
from .recording import recorded

#: How much of an activation may be negative behind a ReLU or its like.
_HARDLY = 0.25


@dataclass(eq=False)
class Activation:
    """An activation: its shape, how much of it is negative, what made it, and the modules around it.

    ``layout`` is one that its shape allows, and where ``settled`` the one that it has; None where it has none. ``node``
    is its place in autograd's graph; None where it has none. ``tokens_first`` is one (N, B, C), which has no layout.
    """

    shape: tuple[int, ...]
    negative: float = 1.0
    returned_by: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    normed: bool = False
    convolved: bool = False
    node: Node | None = None
    layout: Layout | None = None
    settled: bool = False
    tokens_first: bool = False

    @property
    def channels(self) -> int:
        """How many."""
        return self.shape[1] if self.layout is not None and self.layout.kind == "channels first" else self.shape[-1]

    @property
    def positive(self) -> bool:
        """Whether it is hardly negative."""
        return self.negative < _HARDLY

    @property
    def name(self) -> str:
        """Of a module around it."""
        return (self.returned_by or self.entered)[-1]


class ForwardTrace:
    """One forward of one image, or of all where the model takes no other number.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
    request : Request
        What is explained: the scores that an activation may lead to.

    Attributes
    ----------
    evidence : Evidence
    images : (b, ...) tensor
        Those of the forward.
    request : Request
        For them.
    passed : list of Activation
        All that the scores depend on, as they came, but for tokens (N, B, C); no tensor is kept.
    activations : list of Activation
        Those that may have a layout.
    calls : Counter
        How often each module, by name, ran.
    """

    evidence: Evidence
    images: torch.Tensor
    request: Request

    def __init__(self, model: nn.Module, images: torch.Tensor, request: Request) -> None:
        self.named = {name: module for name, module in model.named_modules() if name}
        self._model = model
        with_one(lambda given: self._run(given, request), model, images)
        self._with_tokens_first = [one for one in self._passed if self._scored is None or one.node in self._scored]
        self.passed = [one for one in self._with_tokens_first if not one.tokens_first]
        placed = with_places([one.node for one in self.passed], self._source, self.evidence)
        for one in self.passed:
            one.settled = one.node in placed
            one.layout = as_it_is(self.evidence, one.shape) if one.settled else plausible(self.evidence, one.shape)
        self.activations = [one for one in self.passed if one.layout is not None]

    def _run(self, images: torch.Tensor, request: Request) -> None:
        self.images, self.request = images, _of_first(request, len(images))
        output = recorded(self._model, images, partial(self._forward, images))
        tensors = tensors_in(output)
        if any(bool(tensor.isnan().any()) for tensor in tensors):  # of which nothing can be chosen
            raise NotFiniteError("logits: expected finite numbers within float32; image 0 has NaN or infinity")
        self._outputs = {tuple(x.shape) for x in tensors if x.ndim == images.ndim}
        roots = [score.grad_fn for score in self._scores(output)] or [tensor.grad_fn for tensor in tensors]
        self._scored = reached_from(roots) if any(root is not None for root in roots) else None

    def _forward(self, images: torch.Tensor, given: torch.Tensor, source: Node | None) -> Any:
        self.calls: Counter[str] = Counter()
        self._passed: list[Activation] = []
        self._made: dict[str, Node | None] = {}
        self._remembered: dict[int, tuple[weakref.ref[torch.Tensor], int, Activation | None]] = {}
        self._source = source
        self.evidence = Evidence(self._model, images, given)
        with own_thread.hooked(self._attach()):
            return self._model(given)

    def _scores(self, output: Any) -> list[torch.Tensor]:
        """The scores that are asked for, or else the logits; none where there are none, which others complain of."""
        with torch.enable_grad():
            with suppress(Exception):  # a callable may raise anything
                return resolve(self.request, logits_for(self.request, output, len(self.images)), output)[1]
            with suppress(TypeError):
                return [logits_of(output)]
        return []

    def gives_scores(self, activation: Activation) -> bool:
        """Whether an activation (B, C, ...) is a score for each position, as a segmentation returns, and no feature."""
        size = self.evidence.size
        return any(
            activation.channels == shape[1] and (activation.convolved or shape[2:] == tuple(size))
            for shape in self._outputs
        )

    def leads_on(self, name: str) -> bool:
        """Whether the scores depend on what the module `name` returns, and so on what enters it."""
        return self._scored is None or name not in self._made or self._made[name] in self._scored

    def before(self, activation: Activation) -> list[Activation]:
        """The activations that came before one, and that it depends on."""
        earlier = self.activations[: self.activations.index(activation)]
        if activation.node is None:
            return earlier
        nodes = reached_from([activation.node])
        return [one for one in earlier if one.node is None or one.node in nodes]

    def tokens_first_behind(self, last: Activation | None) -> Activation | None:
        """The last of tokens (N, B, C) that blocks of attention behind an activation work on; None if there are none.

        They are as many as `last` has positions, or more, and what came before it was no such tokens: a block may move
        its own, and return them as they were. Blocks are told by norms, or by several attentions, from a head that
        pools. None is the beginning of the model.
        """
        end = 0 if last is None else self._with_tokens_first.index(last)
        tokens = [one for one in self._with_tokens_first if one.tokens_first and self._cover(one, last)]
        if any(one in self._with_tokens_first[:end] for one in tokens):
            return None
        attended = [
            one
            for one in tokens
            if any(isinstance(self.named[name], nn.MultiheadAttention) for name in one.returned_by)
        ]
        return tokens[-1] if len(attended) > 1 or any(one.normed for one in tokens) else None

    def _cover(self, tokens: Activation, last: Activation | None) -> bool:
        count, batch, channels = tokens.shape
        grids = [prod(reading.grid) for reading in self.evidence.token_readings((batch, count, channels))]
        return bool(grids) if last is None or last.layout is None else prod(last.layout.grid) in grids

    def _attach(self) -> Iterator[RemovableHandle]:
        for name, module in own_thread.hookable(self._model):
            if not name:
                continue

            def before(module: nn.Module, args: tuple[Any, ...], *, name: str = name) -> None:
                self._note(args, module, name, output=False)

            def after(module: nn.Module, args: tuple[Any, ...], output: Any, *, name: str = name) -> None:
                self.calls[name] += 1
                self.evidence.note(name, module, args, output)
                made = first_tensor(output)
                self._made[name] = None if made is None else made.grad_fn
                self._note(output, module, name, output=True)

            yield own_thread.before(module, before)
            yield own_thread.after(module, after)

    def _note(self, value: Any, module: nn.Module, name: str, *, output: bool) -> None:
        tensor = first_tensor(value)
        rank, batch = len(self.evidence.size), self.evidence.batch
        if tensor is None or tensor.ndim < 3 or not tensor.is_floating_point():
            return
        folded = self.evidence.folded and len(tensor) == self.evidence.entry_shape[0]
        if tensor.ndim not in (3, rank + (1 if folded else 2)):
            return
        tokens_first = tensor.ndim == 3 and not folded and len(tensor) != batch and tensor.shape[1] == batch
        if len(tensor) != batch and not (folded or tokens_first):
            return
        if isinstance(module, nn.Embedding):
            return  # positions, the same for every image
        tokens = tensor.ndim == 3 and rank > 1
        if prod(tensor.shape[2:]) < 2 or (tokens and not tokens_first and tensor.shape[1] < 2):
            return
        # An in-place ReLU returns the tensor that it was given, with other values.
        version = -1 if tensor.is_inference() else tensor._version
        remembered = self._remembered.get(id(tensor))
        if remembered is not None and remembered[0]() is tensor and remembered[1] == version:
            activation = remembered[2]
        else:
            activation = None
            if not (output and _is_reshaped(module)):
                activation = Activation(tuple(tensor.shape), node=tensor.grad_fn, tokens_first=tokens_first)
                if not tokens and not tokens_first:
                    activation.negative = _negative(tensor.detach())
                self._passed.append(activation)
            self._remembered[id(tensor)] = weakref.ref(tensor), version, activation
        if activation is None:
            return
        (activation.returned_by if output else activation.entered).append(name)
        activation.normed |= output and "norm" in type(module).__name__.lower()
        activation.convolved |= output and isinstance(module, _ConvNd)


def _is_reshaped(module: nn.Module) -> bool:
    """Whether a module only pads, which moves the grid, or pools to a size of its own, maybe a larger one."""
    kind = type(module).__name__
    named = "Pad" in kind or (kind.startswith("Adaptive") and "Pool" in kind)
    return named and next(module.parameters(), None) is None


def _negative(activation: torch.Tensor) -> float:
    """How much of an activation is negative; one that is zero everywhere tells nothing, so all."""
    total, balance = (float(one.sum(dtype=torch.float32)) for one in (activation.abs(), activation))
    return (total - balance) / 2 / total if total > 0 else 1.0


def _of_first(request: Request, count: int) -> Request:
    """The request for the first images alone."""
    indices, predicted, scores = (
        None if rows is None else rows[:count] for rows in (request.indices, request.predicted, request.scores)
    )
    return replace(request, indices=indices, predicted=predicted, scores=scores)  # type: ignore[arg-type]
