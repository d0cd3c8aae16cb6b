"""Target layers: found by module, by dotted name, or automatically."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import nn

from .guard import first_tensor, guarded

#: Suffix that means what enters a layer instead of what leaves it.
INPUT_SUFFIX = ".input"


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
    named = {name: module for name, module in model.named_modules() if name}
    watch = _LastActivation()
    handles = []
    try:
        for name, module in named.items():
            handles += watch.attach(name, module)
        with guarded(model):
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return watch.layer(named)


class _LastActivation:
    """Hooks that remember the names of the last spatial activation only, so that no other stays in memory."""

    def __init__(self) -> None:
        self.owner = get_ident()
        self.calls: Counter[str] = Counter()
        self.last: torch.Tensor | None = None
        self.version = -1
        self.returned_by: list[str] = []
        self.entered: list[str] = []
        self.tokens_after: str | None = None

    def attach(self, name: str, module: nn.Module) -> list[Any]:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            if get_ident() == self.owner:
                self.see(args, name, output=False)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if get_ident() == self.owner:
                self.calls[name] += 1
                self.see(output, name, output=True)

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def see(self, value: Any, name: str, *, output: bool) -> None:
        tensor = first_tensor(value)
        if tensor is None:
            return
        if tensor.ndim == 3 and tensor.shape[1] > 1:
            self.tokens_after = name
        if tensor.ndim != 4 or tensor.shape[2] * tensor.shape[3] < 2:
            return
        # An in-place ReLU returns the tensor that it was given, with other values.
        version = -1 if tensor.is_inference() else tensor._version
        if tensor is not self.last or version != self.version:
            self.last, self.version = tensor, version
            self.returned_by, self.entered, self.tokens_after = [], [], None
        (self.returned_by if output else self.entered).append(name)

    def layer(self, named: dict[str, nn.Module]) -> TargetLayer:
        if self.last is None:
            raise ValueError(
                "target_layer: no layer of this model takes or returns an activation (B, C, h, w) with more than one "
                "position; name the layer to use"
            )
        if self.tokens_after is not None:
            raise ValueError(
                f"target_layer: after its last (B, C, h, w) activation this model works on tokens ({self.tokens_after}"
                "); name a layer with a (B, C, h, w) activation"
            )
        size = " x ".join(str(n) for n in self.last.shape[1:])
        # Hooks see an outer module's output after the inner one's, so the last of the names is the outermost.
        for name in reversed(self.returned_by):
            if self.calls[name] == 1:
                reason = f"returns the last spatial activation, {size}"
                return TargetLayer(named[name], name, reason=reason)
        for name in self.entered:
            if self.calls[name] == 1:
                reason = f"the last spatial activation, {size}, enters it"
                return TargetLayer(named[name], name + INPUT_SUFFIX, takes_input=True, reason=reason)
        several = ", ".join(sorted({*self.returned_by, *self.entered}))
        raise ValueError(
            f"target_layer: every module around the last spatial activation runs more than once ({several}); name the "
            "layer to use"
        )
