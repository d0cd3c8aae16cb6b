"""Where a layer's tensor has its channels and its positions: channels first, channels last, or tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from ..core.axes import ACTIVATIONS
from ..targets.outputs import first_tensor
from . import own_thread

_REMEDY = (
    "name another layer, or tell its layout: dataclasses.replace(cfcam_gpu.hooks.find(model, name), "
    "layout=cfcam_gpu.hooks.Layout(...))"
)

Grid: TypeAlias = tuple[int, ...]
Kind: TypeAlias = Literal["channels first", "channels last", "tokens"]

#: Parameters that become tokens of their own, before those of the patches: "cls_token", "register_tokens", CLIP's
#: "class_embedding", ... A mask token takes a patch's place, so it is none.
_EXTRA_TOKENS = re.compile(r"(cls|class|dist|distillation|reg|register|storage)_?(token|embedding)s?$", re.IGNORECASE)
#: How often a model may halve its grid by other means than a convolution: merging of patches, pooling.
_HALVINGS = 4
#: Models whose tokens are not in the order of the grid, by the beginning of their modules' class names.
_REORDERING = ("Hiera",)


@dataclass(frozen=True)
class Layout:
    """How a layer's tensor holds the maps of its channels.

    Parameters
    ----------
    kind : {"channels first", "channels last", "tokens"}
        (B, C, h, w), (B, h, w, C), or (B, N, C) with the positions row by row.
    grid : tuple of int
        (h, w).
    extra : int
        Of tokens, how many come before those of the grid: class, distillation and register tokens.
    size : tuple of int, optional
        (H, W) of the images that this was found for; others may have another grid. None fits all.

    Raises
    ------
    ValueError
        If an argument is none of these; the message names it.
    """

    kind: Kind
    grid: Grid
    extra: int = 0
    size: Grid | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: expected {', '.join(map(repr, get_args(Kind)))}; got {self.kind!r}")
        if (
            not isinstance(self.grid, tuple)
            or not self.grid
            or not all(isinstance(n, int) and n > 0 for n in self.grid)
        ):
            raise ValueError(f"grid: expected a tuple of positive ints, (h, w) of an image; got {self.grid!r}")
        if self.extra < 0 or (self.extra and self.kind != "tokens"):
            raise ValueError(f"extra: expected 0, or how many tokens come before the grid's; got {self.extra!r}")

    def __str__(self) -> str:
        extra = f" and {self.extra} more" if self.extra else ""
        return f"{self.kind}, {' x '.join(map(str, self.grid))}{extra}" if self.kind == "tokens" else self.kind

    def check(self, shape: Sequence[int], name: str) -> None:
        """Refuse a tensor that is not of this layout; `name` is the layer's.

        Raises
        ------
        ValueError
            The message has the layout and the shape.
        """
        wanted = {
            "channels first": tuple(shape[2:]) == self.grid,
            "channels last": tuple(shape[1:-1]) == self.grid,
            "tokens": len(shape) == 3 and shape[1] == self.extra + prod(self.grid),
        }
        if not wanted[self.kind]:
            raise ValueError(f"target_layer: expected {name} to be {self}; got shape {tuple(shape)}")

    def flat(self) -> Layout:
        """Of tokens, all in one row, class and register tokens among them."""
        return Layout("tokens", (self.extra + prod(self.grid),))

    def to_maps(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) from the layer's own tensor, or from a gradient with respect to it; a view of it."""
        if self.kind == "channels first":
            return tensor
        if self.kind == "tokens":
            tensor = torch.unflatten(tensor[:, self.extra :], 1, self.grid)
        return tensor.movedim(-1, 1)

    def from_maps(self, maps: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The layer's own tensor from maps (N, C, h, w).

        Parameters
        ----------
        maps : (N, C, h, w) tensor
        own : tensor
            What the layer itself made, of N images or of one: class and register tokens are taken from there.
        """
        if self.kind == "channels first":
            return maps
        maps = maps.movedim(1, -1)
        if self.kind == "channels last":
            return maps.contiguous()  # as the model's own are, which may be flattened by `view`
        extra = own[:, : self.extra].expand(len(maps), -1, -1)
        return torch.cat([extra, maps.flatten(1, -2)], dim=1)


class Evidence:
    """What a forward tells of layouts, noted by hooks that keep no tensor.

    Strided convolutions tell the grids that an image is cut into; layer norms and linear layers work along a tensor's
    last axis, so that its channels are there.

    Parameters
    ----------
    model : torch.nn.Module
    size : sequence of int
        (H, W) of the images.
    """

    def __init__(self, model: nn.Module, size: Sequence[int]) -> None:
        self.model = model
        self.size: Grid = tuple(size)
        self.grids: list[Grid] = []
        self.first: set[Grid] = set()
        self.last: set[Grid] = set()

    def attach(self) -> Iterator[Any]:
        """Hooks on the modules that tell something, for forwards of this thread alone; yields their handles."""
        for module in self.model.modules():
            strided = isinstance(module, nn.modules.conv._ConvNd) and max(module.stride) > 1
            if strided or isinstance(module, (nn.Linear, nn.LayerNorm)):
                yield own_thread.after(module, self.note)

    def note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """What a module makes of its input."""
        result = first_tensor(output)
        if result is None:
            return
        shapes = {tuple(tensor.shape[1:]) for tensor in (first_tensor(args), result) if tensor is not None}
        if isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
            self.first |= shapes
            grid = tuple(result.shape[2:])
            if len(grid) == len(self.size) and prod(grid) > 1 and grid not in self.grids:
                self.grids.append(grid)
        # A subclass may permute its input, as the layer norms of ConvNeXts do.
        elif isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:
            self.last |= shapes

    def layout(self, shape: Sequence[int], name: str) -> Layout:
        """The layout of a tensor of this shape that `name` takes or returns.

        Raises
        ------
        ValueError
            If it can't be told; the message says what is missing.
        """
        rank = len(self.size)
        if len(shape) == rank + 2:
            return self._of_grid(tuple(shape[1:]), name)
        if len(shape) == 3:
            return self._of_tokens(shape[1], name)
        raise ValueError(
            f"target_layer: expected an activation {ACTIVATIONS[rank]} from {name}; got shape {tuple(shape)}"
        )

    def knows(self, grid: Grid) -> bool:
        """Whether the model may cut images into this grid."""
        return grid in self.grids or grid in _halved(self.grids) or grid in self._tiled()

    def _of_grid(self, shape: Grid, name: str) -> Layout:
        first, last = (Layout(kind, grid, size=self.size) for kind, grid in _readings(shape))
        stated = [layout for layout, shapes in ((first, self.first), (last, self.last)) if shape in shapes]
        # torch's own convention, unless the model's layers say otherwise.
        if stated == [first] or not (stated or any(len(known) == len(shape) for known in self.last)):
            return first
        fits = [layout for layout in (*stated, first, last) if self.knows(layout.grid)]
        why = f"neither {first.grid} nor {last.grid} is a grid that it cuts images of {self.size} into{self._seen()}"
        if len(stated) == 2 and first in fits and last in fits:
            why = "both are used on such a shape"
        elif fits:
            return fits[0]
        raise ValueError(
            f"target_layer: {name} gives (B, {', '.join(map(str, shape))}), and whether its channels are first or last "
            f"there can't be told: {why}; {_REMEDY}"
        )

    def _of_tokens(self, tokens: int, name: str) -> Layout:
        if any(type(module).__name__.startswith(_REORDERING) for module in self.model.modules()):
            raise ValueError(
                f"target_layer: {name} gives {tokens} tokens, which this model, {type(self.model).__name__}, has in "
                "another order than that of the image"
            )
        most = extra_tokens(self.model)
        fits: set[tuple[Grid, int]] = set()
        for grids in (self.grids, _halved(self.grids), self._declared(), [] if self.grids else self._tiled()):
            fits = {(grid, tokens - prod(grid)) for grid in grids if 0 <= tokens - prod(grid) <= most}
            fits = {fit for fit in fits if fit[1] in (0, most)} or fits
            if fits:
                break
        if len(fits) == 1:
            ((grid, extra),) = fits
            return Layout("tokens", grid, extra, self.size)
        why = f"several grids fit: {', '.join(str(grid) for grid, _ in sorted(fits))}" if fits else "no grid fits"
        raise ValueError(
            f"target_layer: {name} gives {tokens} tokens for an image of {self.size}, and {why}, with at most {most} "
            f"class or register tokens{self._seen()}; {_REMEDY}"
        )

    def _seen(self) -> str:
        return f" (its convolutions gave {', '.join(map(str, self.grids))})" if self.grids else ""

    def _declared(self) -> list[Grid]:
        """Grids by the patch sizes that the model's modules, or their configurations, name."""
        grids = []
        for module in self.model.modules():
            for owner in (module, getattr(module, "config", None)):
                patch = getattr(owner, "patch_size", None)
                patch = (patch,) * len(self.size) if isinstance(patch, int) else patch
                if isinstance(patch, (tuple, list)) and len(patch) == len(self.size) and min(patch) > 1:
                    grids.append(tuple(side // int(step) for side, step in zip(self.size, patch)))
        return [*grids, *_halved(grids)]

    def _tiled(self) -> list[Grid]:
        """Grids of square patches that cover the image without a rest."""
        steps = (step for step in range(2, min(self.size) + 1) if all(side % step == 0 for side in self.size))
        return [grid for step in steps if prod(grid := tuple(side // step for side in self.size)) > 1]


def extra_tokens(model: nn.Module) -> int:
    """How many class, distillation and register tokens the model has parameters for."""
    count = 0
    for name, parameter in model.named_parameters():
        if _EXTRA_TOKENS.search(name.rpartition(".")[2]):
            count += parameter.shape[-2] if parameter.ndim > 1 else 1
    return count


def _readings(shape: Grid) -> Iterable[tuple[Kind, Grid]]:
    return ("channels first", shape[1:]), ("channels last", shape[:-1])


def _halved(grids: Iterable[Grid]) -> list[Grid]:
    halved = []
    for grid in grids:
        for halvings in range(1, _HALVINGS + 1):
            step = 2**halvings
            smaller = {tuple(ceil(side / step) for side in grid), tuple(side // step for side in grid)}
            halved += [each for each in smaller if prod(each) > 1]
    return halved
