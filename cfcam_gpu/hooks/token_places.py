"""Which tokens are which patches of a grid, and which are none: told by what mixed images make of each token."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2
from typing import NamedTuple

import torch

from .evidence import Reading
from .frames import Frame
from .places import Seen, centres, of_digit, orders

#: Of the best arrangement's score, what a simpler one must have to be taken.
_AS_GOOD = 0.97
#: By no digit may tokens be so much like other places; by the first of each axis they must be so much like their own.
_AGAINST, _AT_ALL = -0.1, 0.2
#: Samples of a cell, of which stretches of a mixture may meet.
_SAMPLES = 8


class Arrangement(NamedTuple):
    """Tokens read as a grid.

    Parameters
    ----------
    score : float
        How well that fits: 1 exactly, 0 not at all, or less well than the grid turned over or moved.
    reading : Reading
    turned : tuple of int
        The order of its axes.
    extra : int or tuple of int
        The other tokens, as in a Layout.
    others : float
        How much the other tokens follow some place, compared with those of the grid; 0 where there are few.
    """

    score: float
    reading: Reading
    turned: tuple[int, ...]
    extra: int | tuple[int, ...]
    others: float


def levels_of(readings: Sequence[Reading], axes: Sequence[int], *, least: int) -> dict[int, int]:
    """How many digits tell the places of these grids apart, for each of the images' axes."""
    side = max((max(reading.grid) for reading in readings), default=1)
    return {axis: max(least, ceil(log2(side))) for axis in axes}


def arrangements(seen: Seen, readings: Sequence[Reading], frame: Frame) -> list[Arrangement]:
    """The readings, the likeliest first, each in all orders of its axes, the plain one first."""
    found: list[Arrangement] = []
    for reading in readings:
        sides = reading.grid[1:] if reading.folded else reading.grid
        fixed = 1 if reading.folded else 0
        for order in orders(len(sides)):
            turned = (*range(fixed), *(fixed + axis for axis in order))
            grid = (*reading.grid[:fixed], *(sides[axis] for axis in order))
            fits, coarse = _fits(seen, grid, turned, fixed, frame)
            if fits is not None:
                extra = _extra(fits.mean(dim=0))
                score, others = _judged(fits, coarse, extra, grid[fixed:])
                found.append(Arrangement(score, reading._replace(grid=grid), turned, extra, others))
    return found


def best(seen: Seen | None, readings: Sequence[Reading], frame: Frame) -> Arrangement | None:
    """The arrangement that fits best; of those that fit nearly as well the likeliest."""
    found = [] if seen is None else arrangements(seen, readings, frame)
    score = max((one.score for one in found), default=0.0)
    return next((one for one in found if one.score >= _AS_GOOD * score), None)


def score_of(seen: Seen, arrangement: Arrangement, frame: Frame) -> float:
    """How well other tokens of the same number fit an arrangement."""
    reading, extra = arrangement.reading, arrangement.extra
    fits, _ = _fits(seen, reading.grid, arrangement.turned, 1 if reading.folded else 0, frame)
    return 0.0 if fits is None else float(fits.mean(dim=0)[_rest(len(fits[0]), extra), range(fits.shape[2])].sum())


def _fits(
    seen: Seen, whole: Sequence[int], turned: Sequence[int], fixed: int, frame: Frame
) -> tuple[torch.Tensor | None, list[int]]:
    """(D, N, h * w): how well each token fits each place by each digit; all in their own places add up to 1 at best.

    And which digits are the first of an axis.
    """
    grid, coarse = whole[fixed:], []
    found: list[torch.Tensor] = []
    for i, side in enumerate(grid):
        axis, inside = frame.axes[turned[fixed + i]], frame.inside[turned[fixed + i]]
        for level in range(max(1, ceil(log2(side))) if side > 1 else 0):
            profile = seen.profiles.get(((axis, level), 1))
            if profile is None:
                continue
            if level == 0:
                coarse.append(len(found))
            signs = of_digit(centres(side * _SAMPLES, inside), level).reshape(side, _SAMPLES).mean(dim=1)
            shape = [1] * len(grid)
            shape[i] = side
            of_places = signs.reshape(shape).expand(*grid).flatten()
            found.append(profile[:, None] * of_places / profile.abs().sum().clamp_min(torch.finfo().tiny))
    return (torch.stack(found) if found else None), coarse


def _extra(fits: torch.Tensor) -> int | tuple[int, ...]:
    """The tokens that are none of the grid's in the best arrangement in which places follow each other."""
    tokens, places = fits.shape
    extra = tokens - places
    best, between = _aligned(fits)
    simple: list[tuple[int, ...]] = [
        tuple(range(extra)),
        tuple(range(places, tokens)),
        (0, *range(1 + places, tokens)),
    ]
    for chosen in simple if extra else []:
        if float(fits[_rest(tokens, chosen), range(places)].sum()) >= _AS_GOOD * best:
            between = chosen
            break
    return len(between) if between == tuple(range(len(between))) else between


def _judged(
    fits: torch.Tensor, coarse: list[int], extra: int | tuple[int, ...], grid: Sequence[int]
) -> tuple[float, float]:
    """The score of an arrangement, 0 where the grid turned over or moved fits better; and what the other tokens do."""
    rest, mean = _rest(fits.shape[1], extra), fits.mean(dim=0)
    places = torch.arange(fits.shape[2])
    score = float(mean[rest, places].sum())
    by_digit = fits[:, rest, places].sum(dim=1)
    if float(by_digit.min()) < _AGAINST or float(by_digit[coarse].min()) < _AT_ALL:
        return 0.0, 0.0
    square = places.reshape(*grid)
    for axis, side in enumerate(grid):
        moved = [square.flip(axis), *(square.roll(step, axis) for step in {1, -1, side // 2} if side > 2)]
        if side > 1 and any(float(mean[rest, one.flatten()].sum()) > score for one in moved):
            return 0.0, 0.0
    others = sorted({*range(fits.shape[1])} - {*rest})
    if score <= 0 or len(others) * 4 < len(places):
        return score, 0.0
    return score, float(mean[others].amax(dim=1).mean()) * len(places) / score


def _rest(tokens: int, extra: int | tuple[int, ...]) -> list[int]:
    """The tokens that are the grid's."""
    others = set(range(extra)) if isinstance(extra, int) else set(extra)
    return [token for token in range(tokens) if token not in others]


def _aligned(fits: torch.Tensor) -> tuple[float, tuple[int, ...]]:
    """Places in their order onto tokens in theirs, so that the sum of fits is largest: by dynamic programming."""
    tokens, places = fits.shape
    extra = tokens - places
    # reached[k]: the best sum of the places so far with k tokens passed over before the last of them.
    reached = torch.zeros(extra + 1)
    chosen: list[torch.Tensor] = []
    for place in range(places):
        before, skipped = torch.cummax(reached, dim=0)
        reached = before + fits[place : place + extra + 1, place]
        chosen.append(skipped)
    skips = int(reached.argmax())
    best, taken = float(reached[skips]), set()
    for place in reversed(range(places)):
        taken.add(place + skips)
        skips = int(chosen[place][skips])
    return best, tuple(token for token in range(tokens) if token not in taken)
