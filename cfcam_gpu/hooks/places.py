"""Which place of the image each position of an activation is of, seen by what changes when the image does.

A model is run on an image, on another one, and on mixtures of the two: along one axis, some stretches are of the first
and the others of the second. A position that looks into a stretch of the first image is then more like what it is in
the first. The stretches are those of a binary code (Gray's: neighbours differ in one digit), so that few mixtures tell
each place from all others. No tensor is kept longer than the forwards take: of each activation only how much it is
like one image or the other, summed along each of its axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch import nn

from ..targets.outputs import first_tensor
from . import own_thread
from .guard import guarded
from .layouts import Folded
from .target_layer import TargetLayer

#: A mixture: the images' axis that it is along, and the digit of the code.
Mixture = tuple[int, int]
WHOLE = (0.0, 1.0)
#: How much of what changes must be like one image or the other as a whole, where an axis lies along another.
_CLEAR = 0.5
#: The share of positions that lie on a line from one end of the image to the other; reflections at the border don't.
_ON_THE_LINE, _OFF_THE_LINE = 0.6, 0.05
#: How near to both ends of the image those on the line come.
_WIDE = 0.08
#: How much of the image a position as long as the axis sees at least.
_STEEP = 0.25


@dataclass
class Seen:
    """What was seen of one activation.

    Attributes
    ----------
    shape : tuple of int
    profiles : dict
        Of each mixture and axis of the activation, along that axis: > 0 where it is like the second image, < 0 where it
        is like the first.
    totals : dict
        Of each mixture, the sum of all magnitudes.
    changes : list of (n,) bool tensors
        Of each axis of the activation, where it differs between the two images at all.
    """

    shape: tuple[int, ...]
    profiles: dict[tuple[Mixture, int], torch.Tensor] = field(default_factory=dict)
    totals: dict[Mixture, float] = field(default_factory=dict)
    changes: list[torch.Tensor] = field(default_factory=list)

    def changed(self, axis: int) -> tuple[float, float]:
        """Where what differs between the two images begins and ends along an axis, as shares of its length."""
        changed = self.changes[axis].nonzero().flatten()
        if not len(changed):
            return WHOLE
        return int(changed[0]) / self.shape[axis], (int(changed[-1]) + 1) / self.shape[axis]

    def placed(self, axis: int, mixed: int) -> tuple[float, float] | None:
        """Where an axis of the images begins and ends along an axis of the activation, read from its digits.

        As shares of the activation's axis: beyond 0 and 1 where a part of the images is cut off, the larger first where
        they are turned over. None where the one does not lie along the other, by one step everywhere.
        """
        levels = sorted(level for other, level in self.totals if other == mixed)
        profiles = torch.stack([self.profiles[(mixed, level), axis] for level in levels]) if levels else None
        totals = torch.tensor([self.totals[mixed, level] for level in levels])
        count = self.shape[axis]
        if profiles is None or count < 4 or not bool((totals > 0).all()):
            return None
        if float((profiles.abs().sum(dim=1) / totals)[0]) < _CLEAR:
            return None
        # Gray's code, the first digit first; positions of which nothing changes tell nothing.
        gray = (profiles > 0).long()
        binary = gray.cumsum(dim=0) % 2
        steps = 2 ** torch.arange(len(levels) - 1, -1, -1)
        decoded = ((binary * steps[:, None]).sum(dim=0) + 0.5) / 2 ** len(levels)
        told = profiles.abs().amin(dim=0) > 0
        where, decoded = centres(count)[told], decoded[told]
        if len(where) < 4:
            return None
        return _line(where, decoded, 1.5 / 2 ** len(levels))

    def along(self, axis: int, mixed: int, inside: tuple[float, float] = WHOLE, *, digits: int = 1) -> float:
        """How well an axis of the activation follows an axis of the images: 1 exactly, 0 not at all.

        The least of so many digits of the place, as far as the axis has them and images were mixed by them.
        """
        found: list[float] = []
        for level in range(digits):
            mixture = (mixed, level)
            if level and (mixture not in self.totals or self.shape[axis] < 2 ** (level + 1)):
                break
            signs = of_digit(centres(self.shape[axis], inside), level)
            total = self.totals.get(mixture, 0.0)
            found.append(float((self.profiles[mixture, axis] * signs).sum()) / total if total else 0.0)
        return min(found)


def centres(count: int, inside: tuple[float, float] = WHOLE) -> torch.Tensor:
    """(n,) Where the middles of n cells are in the image, from 0 to 1 along an axis."""
    low, high = inside
    return ((torch.arange(count) + 0.5) / count - low) / (high - low)


def of_digit(places: torch.Tensor, level: int) -> torch.Tensor:
    """+1 where the second image is at these places, from 0 to 1, -1 where the first is, 0 outside."""
    stretch = (places * 2 ** (level + 1)).floor().long()
    signs: torch.Tensor = ((stretch ^ (stretch >> 1)) & 1) * 2.0 - 1.0
    return signs.masked_fill((places < 0) | (places > 1), 0.0)


def look(
    model: nn.Module, images: torch.Tensor, layers: Sequence[TargetLayer], levels: Mapping[int, int]
) -> list[Seen | None]:
    """Run the mixtures.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        All are mixed with images of their own.
    layers : sequence of TargetLayer
    levels : dict
        Of each of the images' axes to mix along, how many digits.

    Returns
    -------
    list
        Of each layer what was seen; None where it gives other shapes for other images.
    """
    kept: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Any:
        def note(value: Any) -> None:
            tensor = first_tensor(value)
            if tensor is not None:
                kept[index] = tensor.detach().to("cpu", torch.float32, copy=True)

        return note

    first, second = _two(images)

    def run(mixed: torch.Tensor) -> dict[int, torch.Tensor]:
        kept.clear()
        with own_numbers(model, images), own_thread.hooked(layer.hook(keep(i)) for i, layer in enumerate(layers)):
            model(mixed.clone())
        return dict(kept)

    with guarded(model):
        of_first, of_second = run(first), run(second)
        found = [_compared(of_first.get(i), of_second.get(i)) for i in range(len(layers))]
        for axis, count in levels.items():
            for level in range(count):
                shape = [1] * images.ndim
                shape[axis] = -1
                signs = of_digit(centres(images.shape[axis]), level).view(shape).to(images.device)
                mixed = run(torch.where(signs > 0, second, first))
                for i, seen in enumerate(found):
                    if seen is not None and i in mixed and mixed[i].shape == seen.shape:
                        _note(seen, (axis, level), mixed[i], of_first[i], of_second[i])
                    else:
                        found[i] = None
    return found


def _line(where: torch.Tensor, decoded: torch.Tensor, near: float) -> tuple[float, float] | None:
    """The ends, 0 and 1, of the straight line through most of the points; None where there is none."""
    apart = max(1, len(where) // 4)
    slope = ((decoded[apart:] - decoded[:-apart]) / (where[apart:] - where[:-apart])).median()
    offset = (decoded - slope * where).median()
    close = (decoded - slope * where - offset).abs() < near
    if float(close.float().mean()) < _ON_THE_LINE:
        return None
    x, y = where[close], decoded[close]
    # What is off the line may repeat what is on it, as a reflecting border does, and not be the rest of the image.
    if float((~close).float().mean()) > _OFF_THE_LINE and (float(y.min()) > _WIDE or float(y.max()) < 1 - _WIDE):
        return None
    spread = (x - x.mean()).square().sum()
    if not float(spread):
        return None
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    if abs(float(slope)) < _STEEP:
        return None
    offset = y.mean() - slope * x.mean()
    return float(-offset / slope), float((1 - offset) / slope)


def orders(count: int) -> list[tuple[int, ...]]:
    """All orders of so many axes, the plain one first."""
    return list(permutations(range(count)))


def _two(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and others as unlike them as their values allow, both with noise, so that no place is like another.

    Their values stay within those of the images, which a model may rely on.
    """
    plain = torch.nan_to_num(images.detach(), posinf=0.0, neginf=0.0)
    low, high = float(plain.min()), float(plain.max())
    if not high > low:
        low, high = (low, low + max(abs(low), 1.0)) if low >= 0 else (2 * low, 0.0)
    generator = torch.Generator().manual_seed(0)
    turned = low + high - plain.flip(list(range(2, plain.ndim)))
    found = []
    for one in (plain, turned):
        noise = torch.randn(one.shape, generator=generator).to(one.device, one.dtype)
        found.append((one + 0.3 * (high - low) * noise).clamp(low, high))
    return found[0], found[1]


def _compared(first: torch.Tensor | None, second: torch.Tensor | None) -> Seen | None:
    if first is None or second is None or first.shape != second.shape:
        return None
    if not bool(first.isfinite().all()) or not bool(second.isfinite().all()):
        return None
    seen = Seen(tuple(first.shape))
    differs = first != second
    seen.changes = [differs.any(dim=others) for others in _all_but_one(first.ndim)]
    return seen


def _note(seen: Seen, mixture: Mixture, mixed: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
    # |mixed - first|^2 - |mixed - second|^2, by which it is nearer to the second.
    nearer = (second - first) * (2 * mixed - first - second)
    nearer = torch.nan_to_num(nearer, posinf=0.0, neginf=0.0)
    seen.totals[mixture] = float(nearer.abs().sum())
    for axis, others in enumerate(_all_but_one(mixed.ndim)):
        seen.profiles[mixture, axis] = nearer.sum(dim=others)


def _all_but_one(count: int) -> list[tuple[int, ...]]:
    """For each of so many axes the others."""
    return [tuple(other for other in range(count) if other != axis) for axis in range(count)]


@contextmanager
def own_numbers(model: nn.Module, images: torch.Tensor) -> Iterator[None]:
    """Inside, a model in training mode draws random numbers of ours, each time the same: the caller's are as before."""
    if not any(module.training for module in model.modules()):
        yield
        return
    with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def folded_order(model: nn.Module, images: torch.Tensor, layer: TargetLayer) -> Folded | None:
    """In which order a layer's tensor has the frames of two images; None where it has neither.

    Of a model that does not take two it doesn't matter.
    """
    one, other = (given[:1] for given in _two(images))
    found: list[torch.Tensor] = []

    def keep(value: Any) -> None:
        tensor = first_tensor(value)
        assert tensor is not None
        found.append(tensor.detach().float())

    with guarded(model), own_numbers(model, images):
        for given in (torch.cat([one, other]), one, other):
            with own_thread.hooked([layer.hook(keep)]), suppress(Exception):
                model(given.clone())
            if not found:
                return "image by image"
    both, apart = found[0], found[1:]
    if len(apart) < 2 or len(both) != 2 * len(apart[0]):
        return None
    near = 0.01 * float((apart[0] - apart[1]).abs().max())
    orders: tuple[tuple[Folded, torch.Tensor], ...] = (
        ("image by image", torch.cat(apart)),
        ("frame by frame", torch.stack(apart, dim=1).flatten(0, 1)),
    )
    return next((name for name, tensor in orders if float((tensor - both).abs().max()) <= near), None)
