"""What passes the hooks of a model's modules in one forward: every activation that has a grid."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ..targets.outputs import first_tensor
from . import own_thread
from .guard import guarded, noted
from .layouts import Evidence, Layout

#: How much of an activation may be negative behind a ReLU or its like.
_HARDLY = 0.25


@dataclass
class Activation:
    """An activation: its shape, how much of it is negative, what made it, and the modules around it."""

    shape: tuple[int, ...]
    negative: float = 1.0
    returned_by: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    normed: bool = False
    convolved: bool = False
    layout: Layout | None = None

    @property
    def channels(self) -> int:
        """How many."""
        return self.shape[1] if self.layout is not None and self.layout.kind == "channels first" else self.shape[-1]

    @property
    def positive(self) -> bool:
        """Whether it is hardly negative."""
        return self.negative < _HARDLY


class ForwardTrace:
    """One forward of one image.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, 3, H, W) tensor
        The first is used.

    Attributes
    ----------
    activations : list of Activation
        All activations with a known layout, as they came; no tensor is kept.
    calls : Counter
        How often each module, by name, ran.
    along_channels : bool
        Whether layers work on the channels of each position apart, as in transformers and ConvNeXts.
    unknown_after : str or None
        Why an activation after the last of `activations` has no known layout, where there is one.
    """

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        self.named = {name: module for name, module in model.named_modules() if name}
        self.calls: Counter[str] = Counter()
        self.unknown_after: str | None = None
        self._evidence = Evidence(model, images.shape[2:])
        self._passed: list[Activation] = []
        self._remembered: dict[int, tuple[weakref.ref[torch.Tensor], int, Activation]] = {}
        with own_thread.hooked(self._attach()), guarded(model), noted(model, images):
            output = model(images[:1])
        leaves = tree_leaves(dict(output) if isinstance(output, Mapping) else output)
        self._outputs = {tuple(x.shape) for x in leaves if isinstance(x, torch.Tensor) and x.ndim == images.ndim}
        self.activations = list(self._laid_out())
        self.along_channels = any(len(shape) > 1 for shape in self._evidence.last)

    def gives_scores(self, activation: Activation) -> bool:
        """Whether an activation (B, C, ...) is a score for each position, as a segmentation returns, and no feature."""
        size = self._evidence.size
        return any(
            activation.channels == shape[1] and (activation.convolved or shape[2:] == tuple(size))
            for shape in self._outputs
        )

    def _attach(self) -> Iterator[RemovableHandle]:
        for name, module in self.named.items():

            def before(module: nn.Module, args: tuple[Any, ...], *, name: str = name) -> None:
                self._note(args, module, name, output=False)

            def after(module: nn.Module, args: tuple[Any, ...], output: Any, *, name: str = name) -> None:
                self.calls[name] += 1
                self._evidence.note(module, args, output)
                self._note(output, module, name, output=True)

            yield own_thread.before(module, before)
            yield own_thread.after(module, after)

    def _note(self, value: Any, module: nn.Module, name: str, *, output: bool) -> None:
        tensor = first_tensor(value)
        rank = len(self._evidence.size)
        if tensor is None or tensor.ndim not in (3, rank + 2) or len(tensor) != 1 or not tensor.is_floating_point():
            return
        if isinstance(module, nn.Embedding):
            return  # positions, the same for every image
        tokens = tensor.ndim != rank + 2
        if prod(tensor.shape[2:]) < 2 or (tokens and tensor.shape[1] < 2):
            return
        # An in-place ReLU returns the tensor that it was given, with other values.
        version = -1 if tensor.is_inference() else tensor._version
        remembered = self._remembered.get(id(tensor))
        if remembered is not None and remembered[0]() is tensor and remembered[1] == version:
            activation = remembered[2]
        else:
            activation = Activation(tuple(tensor.shape))
            self._remembered[id(tensor)] = weakref.ref(tensor), version, activation
            if not tokens:
                total = tensor.abs().sum()
                activation.negative = float(tensor.clamp(max=0).abs().sum() / total) if total > 0 else 0.0
            self._passed.append(activation)
        (activation.returned_by if output else activation.entered).append(name)
        activation.normed |= output and "norm" in type(module).__name__.lower()
        activation.convolved |= output and isinstance(module, _ConvNd)

    def _laid_out(self) -> Iterator[Activation]:
        tokens: set[int] = set()
        layer_shapes = self._evidence.first | self._evidence.last
        for activation in self._passed:
            name = (activation.returned_by or activation.entered)[-1]
            try:
                activation.layout = self._evidence.layout(activation.shape, name)
            except ValueError as error:
                # (B, C, N), tokens on their way to a pooling, has a token count that is known.
                if not tokens & set(activation.shape[1:]):
                    self.unknown_after = str(error)
                continue
            if activation.layout.kind == "tokens":
                tokens |= {activation.shape[1], activation.shape[1] - activation.layout.extra}
            # Attention's own: (B, heads, N, N), (B, heads, N, d), (B, N, heads, d).
            elif (
                activation.shape[1:] not in layer_shapes and tokens and not self._evidence.knows(activation.layout.grid)
            ):
                continue
            self.unknown_after = None
            yield activation
