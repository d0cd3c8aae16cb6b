"""Target layers: found by module, by dotted name, or automatically."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import nn

from .guard import first_tensor, guarded
from .spatial import ACTIVATIONS

#: Suffix that means what enters a layer instead of what leaves it.
INPUT_SUFFIX = ".input"

#: Modules that work on the last axis of (B, N, C): they tell tokens in a model of signals, where (B, C, t) has three
#: axes, too.
_TOKENWISE = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.RNNBase)


@dataclass(frozen=True)
class TargetLayer:
    """A resolved target layer.

    Parameters
    ----------
    module : torch.nn.Module
    name : str
        Its dotted name in the model; with ``.input`` appended where `takes_input`.
    takes_input : bool
        Whether the activation that enters the module is meant, not the one that leaves it.
    reason : str
        Why this one: "as asked", or what the automatic choice saw.
    """

    module: nn.Module
    name: str
    takes_input: bool = False
    reason: str = "as asked"


def find(model: nn.Module, layer: nn.Module | str) -> TargetLayer:
    """The target layer that `layer` means.

    Parameters
    ----------
    model : torch.nn.Module
    layer : torch.nn.Module or str
        A module of the model, its dotted name, or that name with ``.input``.

    Raises
    ------
    TypeError
        If `layer` is neither a module nor a name.
    ValueError
        If the model has no such layer; the message has the nearest names.
    """
    names = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if isinstance(layer, nn.Module):
        for name, module in names.items():
            if module is layer:
                return TargetLayer(module, name)
        raise ValueError(f"target_layer: the {type(layer).__name__} that was given is not a module of the model")
    if not isinstance(layer, str):
        raise TypeError(f"target_layer: expected a module, a dotted name or None; got {type(layer).__name__}")
    if layer in names:
        return TargetLayer(names[layer], layer)
    owner = layer.removesuffix(INPUT_SUFFIX)
    if owner in names:
        return TargetLayer(names[owner], layer, takes_input=True)
    near = difflib.get_close_matches(layer, [*names, *(name + INPUT_SUFFIX for name in names)], n=3, cutoff=0.4)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"target_layer: the model has no layer {layer!r}{hint}")


def choose(model: nn.Module, images: torch.Tensor) -> TargetLayer:
    """The last activation with a spatial extent, seen in one forward of one image.

    It is named by the outermost module that returns it, or, where that module runs more than once, by the module that
    it enters: what enters a global pooling is often the output of a ReLU that serves the whole network.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used.

    Raises
    ------
    ValueError
        If there is no such activation, no unambiguous name for it, or if tokens follow it, as in a vision transformer.
    """
    return _watch(model, images).last()


def choose_two(model: nn.Module, images: torch.Tensor) -> tuple[TargetLayer, ...]:
    """A fine and a coarse target layer, seen in one forward of one image.

    The coarse one is that of :func:`choose`. The fine one has about twice its resolution; of several, one that is
    hardly negative (behind a ReLU or its like) comes before others, then the one with the shortest dotted name, which
    is a stage's output before a block's inner layer, then the last: ResNet's layer3, what enters EfficientNet-Lite's
    last depthwise convolution of stride 2. Where none has, as in a model of one scale, the fine one is of the same
    resolution, the last but one of its kind before the coarse one (docs/method.md has what that gains).

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
    watch = _watch(model, images)
    coarse, fine = watch.last(), watch.finer()
    return (coarse,) if fine is None else (fine, coarse)


@dataclass
class _Seen:
    """An activation that passed the hooks: where, how large, and how much of it is negative."""

    shape: tuple[int, ...]
    negative: float
    returned_by: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)


def _watch(model: nn.Module, images: torch.Tensor) -> _Watch:
    watch = _Watch({name: module for name, module in model.named_modules() if name}, images.shape)
    handles = watch.attach()
    try:
        with guarded(model):
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return watch


class _Watch:
    """Hooks that note every spatial activation of a forward, and keep none of them in memory."""

    def __init__(self, named: dict[str, nn.Module], images: torch.Size) -> None:
        self.named = named
        self.image_channels = images[1]
        self.shape = ACTIVATIONS[len(images) - 2]
        self.ndim = len(images)
        self.owner = get_ident()
        self.calls: Counter[str] = Counter()
        self.seen: list[_Seen] = []
        self.current: tuple[torch.Tensor, int] | None = None
        self.tokens_after: str | None = None
        self.tokens: torch.Tensor | None = None

    def attach(self) -> list[Any]:
        handles = []
        for name, module in self.named.items():

            def before(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                if get_ident() == self.owner:
                    self.note(args, name, output=False)

            def after(module: nn.Module, args: tuple[Any, ...], output: Any, name: str = name) -> None:
                if get_ident() == self.owner:
                    self.calls[name] += 1
                    self.note(output, name, output=True)

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        return handles

    def note(self, value: Any, name: str, *, output: bool) -> None:
        tensor = first_tensor(value)
        if tensor is None:
            return
        if self.are_tokens(tensor, name):
            self.tokens_after = name if tensor.shape[1] > 1 else self.tokens_after
            return
        if tensor.ndim != self.ndim or math.prod(tensor.shape[2:]) < 2:
            return
        # An in-place ReLU returns the tensor that it was given, with other values.
        version = -1 if tensor.is_inference() else tensor._version
        if self.current is None or tensor is not self.current[0] or version != self.current[1]:
            self.current = tensor, version
            total = tensor.abs().sum()
            negative = float(tensor.clamp(max=0).abs().sum() / total) if total > 0 else 0.0
            self.seen.append(_Seen(tuple(tensor.shape), negative))
            self.tokens_after = None
        (self.seen[-1].returned_by if output else self.seen[-1].entered).append(name)

    def are_tokens(self, tensor: torch.Tensor, name: str) -> bool:
        if tensor.ndim != 3 or self.ndim != 3:
            return tensor.ndim == 3
        if isinstance(self.named[name], _TOKENWISE):
            if self.current is not None and tensor is self.current[0]:  # noted when it entered a module around this one
                self.seen.pop()
                self.current = None
            self.tokens = tensor
        return tensor is self.tokens

    def layer(self, seen: _Seen, what: str) -> TargetLayer | None:
        size = " x ".join(str(n) for n in seen.shape[1:])
        # Hooks see an outer module's output after the inner one's, so the last of the names is the outermost.
        for name in reversed(seen.returned_by):
            if self.calls[name] == 1:
                return TargetLayer(self.named[name], name, reason=f"returns {what}, {size}")
        for name in seen.entered:
            if self.calls[name] == 1:
                reason = f"{what}, {size}, enters it"
                return TargetLayer(self.named[name], name + INPUT_SUFFIX, takes_input=True, reason=reason)
        return None

    def last(self) -> TargetLayer:
        if not self.seen:
            raise ValueError(
                f"target_layer: no layer of this model takes or returns an activation {self.shape} with more than one "
                "position; name the layer to use"
            )
        if self.tokens_after is not None:
            raise ValueError(
                f"target_layer: after its last {self.shape} activation this model works on tokens ({self.tokens_after}"
                f"); name a layer with a {self.shape} activation"
            )
        found = self.layer(self.seen[-1], "the last spatial activation")
        if found is None:
            several = ", ".join(sorted({*self.seen[-1].returned_by, *self.seen[-1].entered}))
            raise ValueError(
                f"target_layer: every module around the last spatial activation runs more than once ({several}); name "
                "the layer to use"
            )
        return found

    def finer(self) -> TargetLayer | None:
        found = self.ranked(1.5, 2.5, "an activation of twice the last one's resolution", least=1)
        if found:
            return found[-1]
        found = self.ranked(1.0, 1.0, "an activation of the last one's resolution, shortly before it", least=2)
        return found[-2] if found else None

    def ranked(self, low: float, high: float, what: str, *, least: int) -> list[TargetLayer]:
        """Layers at `low` to `high` times the last resolution, before it: of the best kind, in the model's order.

        Of a kind are those that are hardly negative, or not, and have names of one depth; there are `least` of them.
        """
        last = self.seen[-1].shape[2:]
        kinds: dict[tuple[bool, int], list[TargetLayer]] = {}
        for seen in self.seen[:-1]:
            ratios = [m / n for n, m in zip(last, seen.shape[2:])]
            # Slices of a volume, frames of a video: an axis may keep its length while others halve.
            alike = all(r == 1 or low <= r <= high for r in ratios) and max(ratios) >= low
            # As many channels as the image: it is the image, maybe normalised.
            if not alike or seen.shape[1] == self.image_channels:
                continue
            found = self.layer(seen, what)
            if found is not None:
                depth = found.name.removesuffix(INPUT_SUFFIX).count(".") if found.takes_input else found.name.count(".")
                kinds.setdefault((seen.negative < 0.25, -depth), []).append(found)
        enough = [kind for kind, members in kinds.items() if len(members) >= least]
        return kinds[max(enough)] if enough else []
