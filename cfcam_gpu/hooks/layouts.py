"""Where a layer's tensor has its channels and its positions: channels first, channels last, or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias, get_args

import torch

from ..core.maps import Inside

Grid: TypeAlias = tuple[int, ...]
Folded: TypeAlias = Literal["image by image", "frame by frame"]
Kind: TypeAlias = Literal["channels first", "channels last", "tokens"]


@dataclass(frozen=True)
class Layout:
    """How a layer's tensor holds the maps of its channels.

    Parameters
    ----------
    kind : {"channels first", "channels last", "tokens"}
        (B, C, h, w), (B, h, w, C), or (B, N, C) with the positions row by row.
    grid : tuple of int
        (h, w), in the order in which the tensor has these axes.
    extra : int or tuple of int
        Of tokens, those that are no position of the grid: class, distillation, register and detection tokens. An int:
        how many come before the grid's. A tuple: their places among all tokens, counted from 0, in increasing order.
    size : tuple of int, optional
        (C, H, W) of the images that this was found for, all their axes behind the first; others may have another grid.
        None fits all.
    order : tuple of int, optional
        For each axis of a map, which axis of `grid` it is: (1, 0) where the model turns the image over. None: the same.
    axes : tuple of int, optional
        For each axis of a map, which axis of the images it lies along: (1, 3, 4) of clips (B, frames, 3, H, W). None:
        those behind the first two.
    inside : tuple of (float, float), optional
        For each axis of a map, where the image begins and ends in the grid, as shares of its length, where the model
        pads its images. None: the grid covers the image.
    folded : {"image by image", "frame by frame"}, optional
        The first axis of the tensor has all B * grid[0] after each other: frames, or views, that a model looks at one
        by one, those of an image together, or the first of all images first.

    Raises
    ------
    ValueError
        If an argument is none of these; the message names it.
    """

    kind: Kind
    grid: Grid
    extra: int | tuple[int, ...] = 0
    size: Grid | None = None
    order: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    inside: Inside | None = None
    folded: Folded | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: expected {', '.join(map(repr, get_args(Kind)))}; got {self.kind!r}")
        if (
            not isinstance(self.grid, tuple)
            or not self.grid
            or not all(isinstance(n, int) and n > 0 for n in self.grid)
        ):
            raise ValueError(f"grid: expected a tuple of positive ints, (h, w) of an image; got {self.grid!r}")
        places = self.extra if isinstance(self.extra, tuple) else (self.extra,)
        if not all(isinstance(n, int) and n >= 0 for n in places) or list(places) != sorted(set(places)):
            raise ValueError(
                "extra: expected 0, how many tokens come before the grid's, or a tuple of the places of those that are "
                f"not the grid's; got {self.extra!r}"
            )
        if self.extra and self.kind != "tokens":
            raise ValueError(f"extra: expected 0 where kind is not 'tokens'; got {self.extra!r}")
        if self.folded is not None and self.folded not in get_args(Folded):
            raise ValueError(f"folded: expected None, {' or '.join(map(repr, get_args(Folded)))}; got {self.folded!r}")
        if self.order is not None and sorted(self.order) != list(range(len(self.grid))):
            raise ValueError(f"order: expected each of the {len(self.grid)} axes of the grid once; got {self.order!r}")
        for name, given in (("axes", self.axes), ("inside", self.inside)):
            if given is not None and len(given) != len(self.grid):
                raise ValueError(f"{name}: expected one for each of the {len(self.grid)} axes; got {given!r}")

    def __str__(self) -> str:
        parts: list[str] = [self.kind]
        if self.kind == "tokens":
            extra = f" and {self.extras} more" if self.extras else ""
            behind = f" at {_ranges(self.extra)}" if isinstance(self.extra, tuple) else ""
            parts.append(f"{' x '.join(map(str, self.grid))}{extra}{behind}")
        if self.order is not None:
            parts.append("turned")
        if self.folded:
            parts.append(f"{self.grid[0]} for each of the batch")
        return ", ".join(parts)

    @property
    def extras(self) -> int:
        """How many tokens are no position of the grid."""
        return len(self.extra) if isinstance(self.extra, tuple) else self.extra

    @property
    def tokens(self) -> int:
        """Of tokens, how many the tensor has along its second axis."""
        return self.extras + prod(self.grid[1:] if self.folded else self.grid)

    def check(self, shape: Sequence[int], name: str) -> None:
        """Refuse a tensor that is not of this layout; `name` is the layer's.

        Raises
        ------
        ValueError
            The message has the layout and the shape.
        """
        grid = self.grid[1:] if self.folded else self.grid
        wanted = {
            "channels first": tuple(shape[2:]) == grid,
            "channels last": tuple(shape[1:-1]) == grid,
            "tokens": len(shape) == 3 and shape[1] == self.tokens,
        }
        if not wanted[self.kind]:
            raise ValueError(f"target_layer: expected {name} to be {self}; got shape {tuple(shape)}")

    def batch_of(self, shape: Sequence[int]) -> int:
        """How many images a tensor of this shape is of."""
        return shape[0] // self.grid[0] if self.folded else shape[0]

    def size_of(self, shape: Sequence[int]) -> Grid:
        """(H, W): how long images of this shape are along the axes of a map."""
        return tuple(shape[axis] for axis in self.axes) if self.axes is not None else tuple(shape[2:])

    def flat(self) -> Layout:
        """Of tokens, all in one row, class and register tokens among them."""
        return Layout("tokens", (self.tokens,))

    def of_extra(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, extras, C) from tokens (B, N, C), or from a gradient with respect to them."""
        return tensor[:, list(self.extra)] if isinstance(self.extra, tuple) else tensor[:, : self.extra]

    def of_grid(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, h * w, C) from tokens (B, N, C), or from a gradient with respect to them."""
        if isinstance(self.extra, int):
            return tensor[:, self.extra :]
        places = torch.tensor(self._places(), device=tensor.device)
        return tensor.index_select(1, places)

    def to_maps(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) from the layer's own tensor, or from a gradient with respect to it; a view where it can be."""
        if self.kind == "tokens":
            tensor = torch.unflatten(self.of_grid(tensor), 1, self.grid[1:] if self.folded else self.grid)
        if self.kind != "channels first":
            tensor = tensor.movedim(-1, 1)
        if self.folded:
            if self.folded == "image by image":
                tensor = torch.unflatten(tensor, 0, (-1, self.grid[0]))
            else:
                tensor = torch.unflatten(tensor, 0, (self.grid[0], -1)).transpose(0, 1)
            tensor = tensor.movedim(2, 1)
        if self.order is not None:
            tensor = tensor.permute(0, 1, *(2 + axis for axis in self.order))
        return tensor

    def from_maps(self, maps: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The layer's own tensor from maps (N, C, h, w).

        Parameters
        ----------
        maps : (N, C, h, w) tensor
        own : tensor
            What the layer itself made, of N images or of one: class and register tokens are taken from there.
        """
        if self.order is not None:
            maps = maps.permute(0, 1, *(2 + self.order.index(axis) for axis in range(len(self.order))))
        if self.folded:
            maps = maps.movedim(1, 2)
            maps = (maps if self.folded == "image by image" else maps.transpose(0, 1)).flatten(0, 1)
        if self.kind != "channels first":
            maps = maps.movedim(1, -1)
        if self.kind != "tokens":
            return maps.contiguous()  # as the model's own are, which may be flattened by `view`
        of_grid = maps.flatten(1, -2)
        of_extra = self.of_extra(own)
        of_extra = of_extra.repeat(len(of_grid) // len(of_extra), 1, 1)
        if isinstance(self.extra, int):
            return torch.cat([of_extra, of_grid], dim=1)
        places = torch.tensor([*self.extra, *self._places()], device=maps.device)
        return torch.cat([of_extra, of_grid], dim=1).index_select(1, places.argsort())

    def _places(self) -> list[int]:
        """Of tokens, where those of the grid are."""
        extra = set(self.extra) if isinstance(self.extra, tuple) else set(range(self.extra))
        return [place for place in range(self.tokens) if place not in extra]


def _ranges(places: tuple[int, ...]) -> str:
    """Places in words: 0, 5-7."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1][1:] = [place]
        else:
            runs.append([place])
    return ", ".join("-".join(map(str, run)) for run in runs)
