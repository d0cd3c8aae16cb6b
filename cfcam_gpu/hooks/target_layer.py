"""One target layer: what it is, and how it is found by module or by dotted name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

from . import own_thread
from .layouts import Grid, Layout

#: Suffix that means what enters a layer instead of what leaves it.
INPUT_SUFFIX = ".input"


@dataclass(frozen=True)
class TargetLayer:
    """A resolved target layer.

    Parameters
    ----------
    module : torch.nn.Module or None
        None in the copy of an explanation: the name is enough to find it again.
    name : str
        Its dotted name in the model; with ``.input`` appended where `takes_input`.
    takes_input : bool
        Whether the activation that enters the module is meant, not the one that leaves it.
    reason : str
        Why this one: "as asked", or what the automatic choice saw.
    layout : Layout, optional
        Where its tensor has channels and positions. None: it is found in the next forward.
    checked : bool
        Whether a backward has shown that of tokens not only the extra ones, a class token say, reach the scores.
    """

    module: nn.Module | None
    name: str
    takes_input: bool = False
    reason: str = "as asked"
    layout: Layout | None = None
    checked: bool = False

    def knows_layout(self, size: Grid) -> bool:
        """Whether `layout` is known for images of (H, W)."""
        return self.layout is not None and self.layout.size in (None, size)

    def is_settled(self, size: Grid) -> bool:
        """Whether nothing is left to find, or to check, in a forward of images of (H, W)."""
        return self.knows_layout(size) and not self.needs_check

    @property
    def needs_check(self) -> bool:
        """Whether there are tokens beside those of the grid, and it is not known yet that the head reads the latter."""
        return self.layout is not None and self.layout.extra > 0 and not self.checked

    def hook(self, change: Callable[[Any], Any]) -> RemovableHandle:
        """Have `change` make another value of what enters or leaves the module, in forwards of this thread alone."""
        assert self.module is not None
        if self.takes_input:
            return own_thread.before(self.module, lambda module, args: change(args))
        return own_thread.after(self.module, lambda module, args, output: change(output))


#: What means a target layer: a module, its dotted name, that name with ``.input``, or one that was found before.
Layer: TypeAlias = nn.Module | str | TargetLayer


def find(model: nn.Module, layer: Layer) -> TargetLayer:
    """The target layer that `layer` means.

    Parameters
    ----------
    model : torch.nn.Module
    layer : torch.nn.Module, str or TargetLayer
        A module of the model, its dotted name, or that name with ``.input``. One that is found already stays as it is.

    Raises
    ------
    TypeError
        If `layer` is neither a module nor a name.
    ValueError
        If the model has no such layer; of a name, the message has the nearest ones.
    """
    if isinstance(layer, TargetLayer):
        if all(module is not layer.module for module in model.modules()):
            raise ValueError(
                f"target_layer: {layer.name} was found in another model; its module is not in this one. Give its name"
            )
        return layer
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
