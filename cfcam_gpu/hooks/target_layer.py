"""One target layer: what it is, and how it is found by module or by dotted name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..targets.outputs import first_tensor
from . import own_thread
from .layouts import Grid, Layout

#: Suffix that means what enters a layer instead of what leaves it.
INPUT_SUFFIX = ".input"
#: A number behind a module's name, "backbone[1]", that means one of several runs in a forward, counted from 0.
_RUN = re.compile(r"^(.*)\[(\d+)\]$")
#: Layers that a line has room for.
_MANY = 6


@dataclass(frozen=True, repr=False)
class TargetLayer:
    """A resolved target layer.

    Parameters
    ----------
    module : torch.nn.Module or None
        None in the copy of an explanation: the name is enough to find it again.
    name : str
        Its dotted name in the model; with ``[run]`` appended where that is given, and ``.input`` where `takes_input`.
    takes_input : bool
        Whether the activation that enters the module is meant, not the one that leaves it.
    reason : str
        Why this one: "as asked", or what the automatic choice saw.
    layout : Layout, optional
        Where its tensor has channels and positions. None: it is found in the next forward.
    run : int, optional
        Of a module that runs several times in a forward, which of them is meant, counted from 0.
    checked : bool
        Whether a backward has shown that of tokens not only the extra ones, a class token say, reach the scores, and of
        two layers that the coarser one depends on the finer one.
    """

    module: nn.Module | None
    name: str
    takes_input: bool = False
    reason: str = "as asked"
    layout: Layout | None = None
    run: int | None = None
    checked: bool = False

    def __repr__(self) -> str:
        """One line; a module's own text has one for each of its modules."""
        kind = "" if self.module is None else f": {type(self.module).__name__}"
        layout = "" if self.layout is None else f", {self.layout}"
        return f"<TargetLayer {self.name}{kind}{layout}; {self.reason}>"

    def knows_layout(self, size: Grid) -> bool:
        """Whether `layout` is known for images of (C, H, W)."""
        return self.layout is not None and self.layout.size in (None, size)

    @property
    def needs_check(self) -> bool:
        """Whether there are tokens beside those of the grid, and it is not known yet that the head reads the latter."""
        return self.layout is not None and self.layout.extras > 0 and not self.checked

    def hook(self, change: Callable[[Any], Any]) -> RemovableHandle:
        """Have `change` make another value of what enters or leaves the module, in forwards of this thread alone.

        What enters it is its positional arguments, or, where no tensor is among these, those given by keyword. Where
        `run` is given, `change` sees that run alone; it may return None, which changes nothing.

        Raises
        ------
        ValueError
            If the module takes no hooks, or in the forward, if several tensors enter by keyword and none by its place.
        """
        assert self.module is not None
        if isinstance(self.module, torch.jit.ScriptModule):
            raise ValueError(
                f"target_layer: {self.name} is TorchScript, and a TorchScript module takes no hooks; put the "
                "torch.nn.Module it was made from in its place, or name a layer before or behind it"
            )
        runs = count()

        def of_run(value: Any) -> Any:
            return change(value) if self.run is None or next(runs) == self.run else None

        def enters(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if first_tensor(args) is not None or first_tensor(tuple(kwargs.values())) is None:
                changed = of_run(args)
                return None if changed is None else (changed, kwargs)
            tensors = [key for key, value in kwargs.items() if _is_activation(value)]
            if len(tensors) > 1:
                raise ValueError(
                    f"target_layer: {self.name} is called with several tensors by keyword, {', '.join(tensors)}, and "
                    "which is meant can't be told; name the layer that returns it"
                )
            changed = of_run(tuple(kwargs.values()))
            return None if changed is None else (args, dict(zip(kwargs, changed)))

        if self.takes_input:
            return own_thread.before_with_keywords(self.module, enters)
        return own_thread.after(self.module, lambda module, args, output: of_run(output))


def in_words(layers: Sequence[TargetLayer]) -> str:
    """The names of layers; of many the first and the last, and how many they are."""
    names = [layer.name for layer in layers]
    return ", ".join(names) if len(names) <= _MANY else f"{names[0]}, ..., {names[-1]} ({len(names)} layers)"


def are_tokens_of_one_grid(layers: Sequence[TargetLayer]) -> bool:
    """Whether layers, whose layouts are known, are of tokens, and all of the same grid.

    Tokens that a model lays out in rows and columns on the way, channels last, are tokens where the other layer's are.
    """
    layouts = [layer.layout for layer in layers]
    kinds, grids = {each and each.kind for each in layouts}, {each and each.grid for each in layouts}
    return "tokens" in kinds and kinds <= {"tokens", "channels last"} and len(grids) == 1


def _is_activation(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 2


#: What means a target layer: a module, its dotted name, that name with ``[run]`` or ``.input``, or one found before.
Layer: TypeAlias = nn.Module | str | TargetLayer


def find(model: nn.Module, layer: Layer) -> TargetLayer:
    """The target layer that `layer` means.

    Parameters
    ----------
    model : torch.nn.Module
    layer : torch.nn.Module, str or TargetLayer
        A module of the model, its dotted name, or that name with ``.input``, for what enters it, or with ``[1]``, for
        its second run in a forward. One that is found already stays as it is.

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
    takes_input = layer not in names and layer.endswith(INPUT_SUFFIX)
    owner = layer.removesuffix(INPUT_SUFFIX) if takes_input else layer
    numbered = None if owner in names else _RUN.match(owner)
    owner, run = (owner, None) if numbered is None else (numbered[1], int(numbered[2]))
    if owner in names:
        return TargetLayer(names[owner], layer, takes_input, run=run)
    near = difflib.get_close_matches(layer, [*names, *(name + INPUT_SUFFIX for name in names)], n=3, cutoff=0.4)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"target_layer: the model has no layer {layer!r}{hint}")
