"""What one forward tells of layouts: shapes at convolutions, norms and linear layers, and what enters first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..targets.outputs import first_tensor
from . import own_thread
from .layouts import Grid, Kind
from .target_layer import TargetLayer

#: How often a model may halve its grid by other means than a convolution: merging of patches, pooling.
_HALVINGS = 4


class Reading(NamedTuple):
    """A way to read a tensor as maps: its kind, its grid in the tensor's own order, and which axes the grid is.

    Tokens have all of the grid in one axis, the second one.
    """

    kind: Kind
    grid: Grid
    axes: tuple[int, ...]
    folded: bool = False


class Evidence:
    """What hooks that keep no tensor note in a forward.

    Convolutions tell the grids that an image is cut into; layer norms and linear layers work along a tensor's last
    axis, so that its channels are there.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        Those of the forward.
    given : (B, ...) tensor, optional
        What the model is given, if that is a copy of them.

    Attributes
    ----------
    whole, size : tuple of int
        Of the images: (C, H, W), and (H, W).
    grids : list of tuple of int
        In the order in which the convolutions have the axes; of frames or views that are folded into the batch with
        their number first.
    first, last : set of tuple of int
        Shapes, without the batch, of what has its channels first, and last.
    entry : TargetLayer or None
        What enters the first convolution.
    entry_shape : tuple of int
    plain : bool
        Whether that are the images as they are; True where there is no convolution.
    earliest : dict
        Of each length and number of rows of tokens, the first layer that works on them: before attention has mixed
        them, the place of each is plain to see.
    """

    def __init__(self, model: nn.Module, images: torch.Tensor, given: torch.Tensor | None = None) -> None:
        self.model = model
        self.images = images
        self._given = images if given is None else given
        self.batch = len(images)
        self.whole: Grid = tuple(images.shape[1:])
        self.size: Grid = tuple(images.shape[2:])
        self.grids: list[Grid] = []
        self.first: set[Grid] = set()
        self.last: set[Grid] = set()
        self.entry: TargetLayer | None = None
        self.entry_shape: tuple[int, ...] = ()
        self.plain = True
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self.earliest: dict[tuple[int, ...], TargetLayer] = {}

    def attach(self) -> Iterator[Any]:
        """Hooks on the modules that tell something, for forwards of this thread alone; yields their handles."""
        for name, module in self.model.named_modules():
            if isinstance(module, (_ConvNd, _BatchNorm, nn.GroupNorm, nn.Linear, nn.LayerNorm)):
                yield own_thread.after(module, lambda *call, name=name: self.note(name, *call))

    def note(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """What a module makes of its input."""
        result, entered = first_tensor(output), first_tensor(args)
        if result is None:
            return
        shapes = {tuple(tensor.shape[1:]) for tensor in (entered, result) if tensor is not None}
        if isinstance(module, (_ConvNd, _BatchNorm, nn.GroupNorm)):
            self.first |= shapes
            if isinstance(module, _ConvNd) and entered is not None and self.entry is None:
                self._enter(name, module, entered)
            if (grid := self._grid_of(result)) is not None and prod(grid) > 1 and grid not in self.grids:
                self.grids.append(grid)
        # A subclass may permute its input, as the layer norms of ConvNeXts do.
        elif isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:
            self.last |= shapes
            if result.ndim == 3:
                self.earliest.setdefault(tuple(result.shape[:2]), TargetLayer(module, name, run=0))

    def _enter(self, name: str, module: nn.Module, entered: torch.Tensor) -> None:
        self.entry = TargetLayer(module, f"{name}.input", takes_input=True, run=0)
        self.entry_shape = tuple(entered.shape)
        alike = entered.shape == self.images.shape and entered.device == self.images.device
        # NaN are the images' own, which are refused elsewhere.
        self.plain = entered is self._given or (
            alike and bool(torch.isclose(entered, self.images, rtol=0.0, atol=0.0, equal_nan=True).all())
        )

    def _grid_of(self, result: torch.Tensor) -> Grid | None:
        rank, grid = len(self.size), tuple(result.shape[2:])
        if len(grid) == rank and len(result) == self.batch:
            return grid
        # Frames or views, which a model looks at one by one.
        if len(grid) == rank - 1 and len(result) % self.batch == 0:
            return (len(result) // self.batch, *grid)
        return None

    @property
    def along_channels(self) -> bool:
        """Whether layers work on the channels of each position apart, as in transformers, ConvNeXts and LSTMs."""
        return self._recurrent or any(len(shape) > 1 for shape in self.last)

    @property
    def folded(self) -> bool:
        """Whether the model's first convolution has frames or views in its batch."""
        if len(self.entry_shape) != len(self.size) + 1 or len(self.size) < 3:
            return False
        count, rest = self.entry_shape[0] // self.batch, self.entry_shape[1:]
        # One frame is told from an axis that was merged with another by what else there is.
        return count > 1 or sorted((count, *rest)) == sorted(self.whole)

    def entry_axes(self) -> tuple[int, ...]:
        """The axes of what enters the first convolution that a grid lies along."""
        return (*((0,) if self.folded else ()), *range(2, len(self.entry_shape)))

    def readings(self, shape: tuple[int, ...]) -> list[Reading]:
        """The ways in which a tensor of this shape may be maps, tokens aside."""
        rank, folds = len(self.size), shape[0] // self.batch
        if len(shape) == rank + 2 and shape[0] == self.batch:
            return [
                Reading("channels first", shape[2:], tuple(range(2, 2 + rank))),
                Reading("channels last", shape[1:-1], tuple(range(1, 1 + rank))),
            ]
        if self.folded and len(shape) == rank + 1 and folds == self.entry_shape[0] // self.batch and rank > 2:
            return [
                Reading("channels first", (folds, *shape[2:]), (0, *range(2, 1 + rank)), folded=True),
                Reading("channels last", (folds, *shape[1:-1]), tuple(range(rank)), folded=True),
            ]
        return []

    def token_readings(self, shape: tuple[int, ...]) -> list[Reading]:
        """The grids that tokens (B, N, C) may have, the likeliest first."""
        folds = shape[0] // self.batch
        folded = shape[0] != self.batch
        if len(shape) != 3 or (folded and (not self.folded or folds != self.entry_shape[0] // self.batch)):
            return []
        found: list[Grid] = []
        for grids in (self.grids, halved(self.grids), self._declared(), [] if self.grids else self._tiled()):
            for grid in grids:
                positions = prod(grid[1:] if folded else grid)
                if (
                    positions <= shape[1] <= 2 * positions + 2
                    and grid not in found
                    and (not folded or grid[0] == folds)
                ):
                    found.append(grid)
        return [Reading("tokens", grid, (1,), folded) for grid in found]

    def touched(self, shape: tuple[int, ...]) -> list[Kind]:
        """Of which kinds layers of the model state that a tensor of this shape is, or one with its channels moved."""
        own, spatial = shape[1:], len(shape) > 3
        is_first = own in self.first or (spatial and (*own[1:], own[0]) in self.last)
        is_last = own in self.last or (spatial and (own[-1], *own[:-1]) in self.first)
        if not spatial:  # of a signal's tokens it is stated, too, that their channels are last
            is_last = is_last and (not self.grids or self.knows(own[:1]))
        stated: tuple[tuple[Kind, bool], ...] = (("channels first", is_first), ("channels last", is_last))
        return [kind for kind, holds in stated if holds]

    def knows(self, grid: Grid) -> bool:
        """Whether the model may cut images into this grid."""
        if grid == self.size or grid in self.grids or grid in halved(self.grids):
            return True
        return not self.grids and grid in self._tiled()

    def seen(self) -> str:
        """The grids, for an error."""
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
        return [grid for grid in [*grids, *halved(grids)] if prod(grid) > 1]

    def _tiled(self) -> list[Grid]:
        """Grids of square patches that cover the image without a rest."""
        steps = (step for step in range(2, min(self.size) + 1) if all(side % step == 0 for side in self.size))
        return [grid for step in steps if prod(grid := tuple(side // step for side in self.size)) > 1]


def halved(grids: Iterable[Grid]) -> list[Grid]:
    """The grids with their sides halved once or several times; slices and frames may keep their number."""
    found: list[Grid] = []
    for grid in grids:
        for halvings in range(1, _HALVINGS + 1):
            step = 2**halvings
            up, down = tuple(ceil(side / step) for side in grid), tuple(side // step for side in grid)
            kept = [(grid[0], *up[1:]), (grid[0], *down[1:])] if len(grid) > 2 else []
            found += [each for each in dict.fromkeys((up, down, *kept)) if prod(each) > 1]
    return found
