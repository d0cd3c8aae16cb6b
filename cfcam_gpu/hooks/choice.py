"""The automatic choice of target layers, by what one forward shows and where the scores come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import nn

from ..core.axes import ACTIVATIONS
from ..targets.outputs import logits_of, tensors_in
from ..targets.request import Request
from . import own_thread
from .activation_hook import of_one_graph, scripted_parts, tokens_first
from .capture import capture
from .forward_trace import Activation, ForwardTrace
from .laying_out import decide
from .layouts import Grid, Layout
from .target_layer import INPUT_SUFFIX, TargetLayer

#: Activations whose layouts are found together, where the last of them is wanted: the next may be, and the forwards
#: that this takes serve all.
_AT_ONCE = 16
#: Values that the activations looked at together may have.
_VALUES = 2**25


class Choice:
    """What was seen of a model, and what is taken of it."""

    def __init__(self, model: nn.Module, images: torch.Tensor, request: Request | None) -> None:
        self.model = model
        self.trace = ForwardTrace(model, images, request or Request())
        self.by_class_token = False
        self._why: ValueError | None = None
        try:
            self.last = self._last()
        except ValueError:
            self._check_order(None)
            raise
        self._check_order(self.last)
        self._check_scripted(self.last)

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
            if self.trace.calls[name] == 1 and self.trace.leads_on(name):
                module, name, reason = self.trace.named[name], name + INPUT_SUFFIX, f"{what}, {size}, enters it"
                return TargetLayer(module, name, takes_input=True, reason=reason, layout=activation.layout)
        return None

    def settled(self, activations: Sequence[Activation]) -> list[Activation]:
        """Those of some activations that have a layout; what is not known of them yet is found."""
        unsettled = [one for one in activations if not one.settled]
        asked = [(one, layer) for one in unsettled if (layer := self.named(one, "")) is not None]
        for some in _together(asked):
            layouts = decide(self.trace.evidence, [(replace(layer, layout=None), one.shape) for one, layer in some])
            for (one, _), layout in zip(some, layouts):
                one.layout = layout if isinstance(layout, Layout) else None
                self._why = layout if isinstance(layout, ValueError) else self._why
        for one in unsettled:
            one.settled = True
        return [one for one in activations if one.layout is not None]

    def layer_of(self, activation: Activation) -> TargetLayer:
        """The layer of the coarse activation.

        Raises
        ------
        ValueError
            If every module around it runs more than once.
        """
        what = "the last spatial activation"
        if self.by_class_token and not self._tokenlike(activation):
            what = "the last activation of patches alone (the head reads the class token alone)"
        elif self.by_class_token:
            what = "the last normalised tokens whose patches have a gradient (the head reads the class token alone)"
        layer = self.named(activation, what)
        if layer is None:
            modules = ", ".join(sorted({*activation.returned_by, *activation.entered}))
            others = (self.named(earlier, "") for earlier in reversed(self.trace.activations))
            nearest = next((f", such as {other.name!r}" for other in others if other is not None), "")
            if all(self.trace.calls[name] < 2 for name in {*activation.returned_by, *activation.entered}):
                raise ValueError(
                    f"target_layer: autograd has no way to the scores from what {modules} return, around the last "
                    "spatial activation: the model runs them in a checkpoint with use_reentrant=True, or under "
                    f"no_grad; name the layer to use{nearest}{of_one_graph(self.model)}"
                )
            raise ValueError(
                f"target_layer: every module around the last spatial activation runs more than once ({modules}); name "
                f"the layer to use{nearest}{of_one_graph(self.model)}"
            )
        return layer

    def _last(self) -> Activation:
        activations = self.trace.activations
        scores = plain = None
        for i in reversed(range(len(activations))):
            activation = activations[i]
            if activation.layout is not None and self._projected(activation):
                scores = scores or activation
                continue
            if not self._settle_up_to(i):
                continue
            assert activation.layout is not None
            layer = self.named(activation, "")
            # What enters a projection of tokens enters others, too: keys, and not values.
            if layer is not None and layer.takes_input and isinstance(layer.module, nn.Linear):
                continue
            # Where the class token alone is read, what attention makes inside is no state of the patches.
            if self.by_class_token and not activation.normed:
                plain = plain or (None if activation.layout.extras else activation)
                continue
            if not activation.layout.extras:
                self._check_unknown(activation)
                return self._before_norm(activation)
            if layer is not None and self._patches_count(layer):
                self._check_unknown(activation)
                return activation
            self.by_class_token = True
        if plain is not None:
            return plain
        if self.by_class_token:
            raise ValueError(
                "target_layer: no tokens of this model have a gradient at their patches; name the layer to use"
            )
        if scores is not None and self.settled([scores]):
            return scores  # nothing but scores
        self._check_unknown(None)
        if self._why is not None:
            raise self._why
        raise ValueError(
            "target_layer: no layer of this model takes or returns an activation "
            f"{ACTIVATIONS[len(self.trace.evidence.size)]} with more than one position, or tokens of a known grid, "
            f"that the scores depend on; name the layer to use{of_one_graph(self.model)}"
        )

    def _settle_up_to(self, end: int) -> bool:
        """Whether an activation has a layout; with it the layouts of some before it are found, which may be next."""
        activations = self.trace.activations
        if not activations[end].settled:
            some = activations[max(0, end + 1 - _AT_ONCE) : end + 1]
            self.settled([one for one in some if one.layout is not None and not self._projected(one)])
        return activations[end].layout is not None

    def _check_unknown(self, last: Activation | None) -> None:
        """Refuse a model that goes on for longer than it took to `last` on what has no known place in the image."""
        passed = self.trace.passed
        end = passed.index(last) + 1 if last is not None else 0
        unknown = [one for one in passed[end:] if one.layout is None and len(one.shape) == 3]
        if not unknown or (last is not None and len(unknown) < end):
            return
        one = unknown[-1]
        reason = decide(self.trace.evidence, [(self._any_layer(one), one.shape)])[0]
        raise ValueError(
            "target_layer: after its last activation of a known grid this model works on others, of which none can be "
            f"chosen; {str(reason).removeprefix('target_layer: ')}"
        )

    def _check_order(self, last: Activation | None) -> None:
        """Refuse a model whose attention works on tokens (N, B, C) behind `last`, and on none before it."""
        one = self.trace.tokens_first_behind(last)
        if one is None:
            return
        layer = None if last is None else self.named(last, "")
        otherwise = "" if layer is None else f"; or name a layer before its attention, such as {layer.name!r}"
        raise tokens_first(one.name, one.shape, otherwise) from None

    def _check_scripted(self, last: Activation) -> None:
        """Refuse a model of which nothing is left beside TorchScript but the image, maybe normalised."""
        if last.shape[1:] == self.trace.evidence.whole and scripted_parts(self.model):
            raise ValueError(f"target_layer: nothing but the image is left to explain{of_one_graph(self.model)}")

    def _any_layer(self, activation: Activation) -> TargetLayer:
        """What an activation leaves or enters, however often that runs."""
        name, takes_input = activation.name, not activation.returned_by
        return TargetLayer(self.trace.named[name], name, takes_input, run=0)

    def _before_norm(self, activation: Activation) -> Activation:
        """What enters the norm that made an activation, if that is hardly negative and the activation is not.

        Of what is centred about zero half speaks against whatever the other half speaks for, and a map may be empty.
        """
        if not activation.normed or activation.positive or self._tokenlike(activation):
            return activation
        for one in self.trace.before(activation):
            if set(one.entered) & set(activation.returned_by[:1]) and one.positive and one.shape == activation.shape:
                return one if self.settled([one]) and self.named(one, "") is not None else activation
        return activation

    def _layout(self, activation: Activation) -> Layout:
        assert activation.layout is not None
        return activation.layout

    def _patches_count(self, layer: TargetLayer) -> bool:
        """Whether the score depends on the patches from this layer on."""
        layout = layer.layout
        assert layout is not None
        tokens, request = replace(layer, layout=layout.flat()), self.trace.request
        # A classifier of zeros, as some models are born with, tells nothing: what enters it does.
        for model, asked in (
            (self.model, request),
            (Scored(self.model, features=False), Request()),
            (Scored(self.model, features=True), Request()),
        ):
            try:
                gradients = capture(model, tokens, self.trace.images, asked).gradients
            except (TypeError, ValueError):  # of a model without logits, say, which its score is asked of elsewhere
                continue
            if bool(gradients.any()):
                return bool(layout.of_grid(gradients[:, 0].mT).any())
        return True

    def two(self) -> tuple[TargetLayer, ...]:
        """The fine and the coarse layer, or the coarse one alone."""
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
        earlier = self.trace.before(self.last)
        if self._tokenlike(self.last) and low > 1:
            earlier = earlier[len(earlier) // 2 :]  # a stem of convolutions is no stage of a token model
        # As many channels as the image: it is the image, maybe normalised.
        of_image = (self.trace.evidence.entry_shape or self.trace.images.shape)[1]
        alike = [one for one in earlier if self._scaled(one, grid, low, high) and one.channels != of_image]
        return [one for one in self.settled(alike) if self._scaled(one, grid, low, high)]

    def _scaled(self, activation: Activation, grid: Grid, low: float, high: float) -> bool:
        return activation.layout is not None and _scaled(grid, activation.layout.grid, low, high)

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
                positive = activation.positive and not self.trace.evidence.along_channels
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


class Scored(nn.Module):
    """A model that gives its logits, or where it has none its embedding (B, K), or what its last linear layer gets."""

    def __init__(self, model: nn.Module, *, features: bool) -> None:
        super().__init__()
        self.model = model
        self.features = features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K)."""
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
            tensors = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
            if not tensors:
                raise
            return next((tensor for tensor in tensors if tensor.ndim == 2), tensors[0].flatten(1))


def _together(asked: list[tuple[Activation, TargetLayer]]) -> Iterator[list[tuple[Activation, TargetLayer]]]:
    """The same in parts whose activations fit into the memory that looking at them may take."""
    some: list[tuple[Activation, TargetLayer]] = []
    for one in asked:
        if some and sum(prod(activation.shape) for activation, _ in [*some, one]) > _VALUES:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def _scaled(grid: Grid, other: Grid, low: float, high: float) -> bool:
    """Whether `other` is `low` to `high` times `grid`; slices and frames may keep their number."""
    ratios = [m / n for n, m in zip(grid, other)]
    halved = [low > 1 and n == m // 2 for n, m in zip(grid, other)]  # 3 to 1
    fits = [ratio == 1 or low <= ratio <= high or half for ratio, half in zip(ratios, halved)]
    return len(grid) == len(other) and all(fits) and max(ratios) >= low


def _kind(name: str) -> str:
    """The name without the numbers of the blocks that it is in."""
    owner, _, own = name.rpartition(".")
    return f"{re.sub(r'[0-9]+', '#', owner)}.{own}"
