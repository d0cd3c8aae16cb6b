"""Target layers: found by module, by dotted name, or automatically."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..targets.outputs import logits_of
from ..targets.request import Request
from . import own_thread
from .capture import capture
from .forward_trace import Activation, ForwardTrace
from .layouts import Grid, Layout
from .target_layer import INPUT_SUFFIX, Layer, TargetLayer, find

__all__ = ["Candidate", "Layer", "TargetLayer", "candidates", "choose", "choose_two", "find"]


@dataclass(frozen=True)
class Candidate:
    """An activation that can be explained.

    Parameters
    ----------
    layer : TargetLayer
    shape : tuple of int
        Of the layer's own tensor for one image, without the batch.
    channels : int
    chosen : bool
        Whether CF-CAM takes it where no layer is named; `layer.reason` then says why.
    """

    layer: TargetLayer
    shape: tuple[int, ...]
    channels: int
    chosen: bool = False


def choose(model: nn.Module, images: torch.Tensor) -> TargetLayer:
    """The last activation with a grid, seen in one forward of one image.

    It is named by the outermost module that returns it, or, where that module runs more than once, by the module that
    it enters: what enters a global pooling is often the output of a ReLU that serves the whole network. The scores of
    positions that a segmentation ends with are passed over. Where a head
    reads nothing of it but class tokens, the gradient of its patches is zero, and the last output of a norm is taken
    whose patches have one: what enters the last attention.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used.

    Raises
    ------
    ValueError
        If there is no such activation, no unambiguous name for it, or if tokens without a known grid follow it.
    """
    choice = _Choice(model, images)
    return choice.layer_of(choice.last)


def choose_two(model: nn.Module, images: torch.Tensor) -> tuple[TargetLayer, ...]:
    """A fine and a coarse target layer, seen in one forward of one image.

    The coarse one is that of :func:`choose`. The fine one has about twice its resolution; of several, one that is
    hardly negative (behind a ReLU or its like) comes before others, then the one with the shortest dotted name, which
    is a stage's output before a block's inner layer, then the last: ResNet's layer3, what enters EfficientNet-Lite's
    last depthwise convolution of stride 2. Of tokens and channels-last activations it is the last before the merging
    of patches. Where none has twice the resolution, as in a model of one scale, the fine one is of the same resolution,
    the last but one of its kind before the coarse one (docs/method.md has what that gains); of tokens, the kind is that
    of the norms that have the coarse one's place in their block.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used.

    Returns
    -------
    tuple of TargetLayer
        (fine, coarse), or (coarse,) where there are not two layers before it to choose from.
    """
    return _Choice(model, images).two()


def candidates(model: nn.Module, images: torch.Tensor) -> list[Candidate]:
    """Every activation that can be a target layer, in the model's order, seen in one forward of one image.

    Each is there once, under the name by which :func:`choose` would call it; those that :func:`choose_two` takes are
    marked.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used.

    Raises
    ------
    ValueError
        As :func:`choose`.
    """
    choice = _Choice(model, images)
    chosen = {layer.name: layer for layer in choice.two()}
    by_name = {}
    for activation in choice.trace.activations:
        layer = choice.named(activation, "an activation")
        if layer is not None:
            is_chosen = layer.name in chosen
            layer = chosen.get(layer.name, layer)
            by_name[layer.name] = Candidate(layer, activation.shape[1:], activation.channels, is_chosen)
    return list(by_name.values())


class _Choice:
    """What was seen of a model, and what is taken of it."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        self.model = model
        self.images = images
        self.trace = ForwardTrace(model, images)
        self.by_class_token = False
        self.last = self._last()

    def named(self, activation: Activation, what: str) -> TargetLayer | None:
        """The layer that an activation is known by; None where all modules around it run more than once."""
        size = " x ".join(str(n) for n in activation.shape[1:])
        if activation.layout is not None and activation.layout.kind != "channels first":
            size = f"{size} ({activation.layout})"
        # Hooks see an outer module's output after the inner one's, so the last of the names is the outermost.
        for name in reversed(activation.returned_by):
            if self.trace.calls[name] == 1:
                reason = f"returns {what}, {size}"
                return TargetLayer(self.trace.named[name], name, reason=reason, layout=activation.layout)
        for name in activation.entered:
            if self.trace.calls[name] == 1:
                module, name, reason = self.trace.named[name], name + INPUT_SUFFIX, f"{what}, {size}, enters it"
                return TargetLayer(module, name, takes_input=True, reason=reason, layout=activation.layout)
        return None

    def layer_of(self, activation: Activation) -> TargetLayer:
        """The layer of the coarse activation."""
        what = "the last spatial activation"
        if self.by_class_token:
            what = "the last normalised tokens whose patches have a gradient (the head reads the class token alone)"
        layer = self.named(activation, what)
        if layer is None:
            modules = ", ".join(sorted({*activation.returned_by, *activation.entered}))
            others = (self.named(earlier, "") for earlier in reversed(self.trace.activations))
            nearest = next((f", such as {other.name!r}" for other in others if other is not None), "")
            raise ValueError(
                f"target_layer: every module around the last spatial activation runs more than once ({modules}); name "
                f"the layer to use{nearest}"
            )
        return layer

    def _last(self) -> Activation:
        activations = self.trace.activations
        if not activations:
            raise ValueError(
                "target_layer: no layer of this model takes or returns an activation (B, C, h, w) with more than one "
                "position, or tokens of a known grid; name the layer to use"
            )
        if self.trace.unknown_after is not None and self._layout(activations[-1]).kind != "tokens":
            raise ValueError(
                "target_layer: after its last activation of a known grid this model works on others, of which none can "
                f"be chosen; {self.trace.unknown_after.removeprefix('target_layer: ')}"
            )
        for activation in reversed(activations):
            if self._projected(activation):
                continue
            extra = self._layout(activation).extra
            if not extra:
                return activation
            if self.by_class_token and not activation.normed:
                continue
            layer = self.named(activation, "")
            if layer is not None and self._patches_count(layer, extra):
                return activation
            self.by_class_token = True
        if not self.by_class_token:
            return activations[-1]  # nothing but scores
        raise ValueError(
            "target_layer: no tokens of this model have a gradient at their patches; name the layer to use"
        )

    def _layout(self, activation: Activation) -> Layout:
        assert activation.layout is not None
        return activation.layout

    def _patches_count(self, layer: TargetLayer, extra: int) -> bool:
        """Whether the score depends on the patches from this layer on."""
        assert layer.layout is not None
        tokens = replace(layer, layout=layer.layout.flat())
        # A classifier of zeros, as some models are born with, tells nothing: what enters it does.
        for features in (False, True):
            scored = _Scored(self.model, features=features)
            gradients = capture(scored, tokens, self.images[:1], Request()).gradients
            if bool(gradients.any()):
                return bool(gradients[..., extra:].any())
        return True

    def two(self) -> tuple[TargetLayer, ...]:
        coarse, fine = self.layer_of(self.last), self._finer()
        if fine is None:
            why = "; there are not two layers like it before it, so one level"
            return (replace(coarse, reason=coarse.reason + why),)
        return fine, coarse

    def _finer(self) -> TargetLayer | None:
        twice = "an activation of twice the last one's resolution"
        layers = self._ranked(1.5, 2.5, twice, least=1)
        if layers:
            return layers[-1]
        tokens = [
            activation
            for activation in self._alike(1.5, 2.5)
            if self._tokenlike(activation) and not activation.normed and not self._projected(activation)
        ]
        if tokens and (layer := self.named(tokens[-1], f"the last {twice.removeprefix('an ')}")) is not None:
            return layer
        same = "an activation of the last one's resolution, shortly before it"
        layers = self._norms(same) if self._tokenlike(self.last) else self._ranked(1.0, 1.0, same, least=2)
        return layers[-2] if len(layers) > 1 else None

    def _tokenlike(self, activation: Activation) -> bool:
        return self._layout(activation).kind != "channels first"

    def _projected(self, activation: Activation) -> bool:
        """Whether a linear read-out and no state of the network: keys, values or logits of tokens, or of positions."""
        if self._tokenlike(activation):
            return any(isinstance(self.trace.named[name], nn.Linear) for name in activation.returned_by[-1:])
        return self.trace.gives_scores(activation)

    def _alike(self, low: float, high: float) -> list[Activation]:
        """Activations at `low` to `high` times the last resolution, before it."""
        grid = self._layout(self.last).grid
        activations = self.trace.activations
        earlier = activations[: next(i for i, activation in enumerate(activations) if activation is self.last)]
        if self._tokenlike(self.last) and low > 1:
            earlier = earlier[len(earlier) // 2 :]  # a stem of convolutions is no stage of a token model
        return [
            activation
            for activation in earlier
            if _scaled(grid, self._layout(activation).grid, low, high)
            # As many channels as the image: it is the image, maybe normalised.
            and activation.channels != self.images.shape[1]
        ]

    def _ranked(self, low: float, high: float, what: str, *, least: int) -> list[TargetLayer]:
        """Channels-first layers at `low` to `high` times the last resolution: of the best kind, in the model's order.

        Of a kind are those that are hardly negative, or not, and have names of one depth; there are `least` of them.
        """
        kinds: dict[tuple[bool, int], list[TargetLayer]] = {}
        for activation in self._alike(low, high):
            layer = None if self._tokenlike(activation) else self.named(activation, what)
            if layer is not None:
                depth = layer.name.removesuffix(INPUT_SUFFIX).count(".") if layer.takes_input else layer.name.count(".")
                # Inside a block of a transformer, behind a GELU, is no better than a stage's output.
                positive = activation.positive and not self.trace.along_channels
                kinds.setdefault((positive, -depth), []).append(layer)
        enough = [kind for kind, members in kinds.items() if len(members) >= least]
        return kinds[max(enough)] if enough else []

    def _norms(self, what: str) -> list[TargetLayer]:
        """Layers that return normalised activations like the last: of its kind, or of the kind seen last.

        Of a kind are those whose names differ in numbers alone: blocks.0.norm1, blocks.1.norm1, ...
        """
        kinds: dict[str, list[TargetLayer]] = {}
        for activation in self._alike(1.0, 1.0):
            layer = (
                self.named(activation, what)
                if activation.normed and activation.channels == self.last.channels
                else None
            )
            if layer is not None and not layer.takes_input:
                kind = _kind(layer.name)
                kinds[kind] = [*kinds.pop(kind, []), layer]  # at the end
        repeated = {kind: members for kind, members in kinds.items() if len(members) > 1}
        own = repeated.get(_kind(self.layer_of(self.last).name))
        return own or next(reversed(repeated.values()), [])


class _Scored(nn.Module):
    """A model that gives its logits, or where it has none its embedding (B, K), or what its last linear layer gets."""

    def __init__(self, model: nn.Module, *, features: bool) -> None:
        super().__init__()
        self.model = model
        self.features = features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        entered: list[torch.Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            entered.extend(value for value in args[:1] if isinstance(value, torch.Tensor) and value.ndim == 2)
            del entered[:-1]

        linear = [module for module in self.model.modules() if self.features and isinstance(module, nn.Linear)]
        with own_thread.hooked(own_thread.before(module, keep) for module in linear):
            output = self.model(images)
        if entered:
            return entered[0]
        try:
            return logits_of(output)
        except TypeError:
            values = tree_leaves(dict(output) if isinstance(output, Mapping) else output)
            tensors = [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
            if not tensors:
                raise
            return next((tensor for tensor in tensors if tensor.ndim == 2), tensors[0].flatten(1))


def _scaled(grid: Grid, other: Grid, low: float, high: float) -> bool:
    """Whether `other` is `low` to `high` times `grid`; slices and frames may keep their number."""
    ratios = [m / n for n, m in zip(grid, other)]
    return all(ratio == 1 or low <= ratio <= high for ratio in ratios) and max(ratios) >= low


def _kind(name: str) -> str:
    """The name without the numbers of the blocks that it is in."""
    owner, _, own = name.rpartition(".")
    return f"{re.sub(r'[0-9]+', '#', owner)}.{own}"
