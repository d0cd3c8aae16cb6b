"""DBSCAN's radius, from squared distances: the median of those to a neighbour, or a percentile of all."""

from __future__ import annotations

import numpy as np
import torch

from ...core.config import Config
from .channels import Roles, rows
from .constants import Ranks, constant
from .distances import NOWHERE, Distances
from .loops import State, repeat

#: How many positions of a row are looked at together when its smallest distances are sought.
_WIDTHS = range(8, 33)
#: So many passes over a row are faster than putting it into order, where each is one loop.
_PASSES = 4
#: Beyond all squared distances, also those of what is no channel, and finite.
_ABOVE_ALL = 1e38
#: An order statistic: so many bounds where a line crosses; and so many halvings from 2^100 to one are enough, 7 of
#: them of powers of two.
_CROSSINGS, _HALVINGS = 12.0, 34


def radius(
    distances: Distances, roles: Roles, config: Config, ranks: Ranks, *, unrolled: bool, fused: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The square of DBSCAN's radius, in the units of the distances; not the number itself where that decides nothing.

    Returns
    -------
    eps : (N,) float32
    converged : (N,) bool
    """
    if config.eps_rule == "neighbor_median":
        eps, converged = _middle_neighbor(distances, roles, config, fused=fused), torch.ones_like(roles.here[:, 0])
    else:
        rank = constant(ranks.pair, distances.squares).index_select(0, roles.clustered)
        eps, converged = order_statistic(distances, rank, unrolled=unrolled)
    return torch.maximum(eps, distances.smallest_eps), converged


def _middle_neighbor(distances: Distances, roles: Roles, config: Config, *, fused: bool) -> torch.Tensor:
    """(N,): the square of the median distance to the neighbour that `config` counts."""
    most = distances.squares.shape[2]
    nearest = smallest(distances.squares, min(config.eps_neighbor, most), fused=fused)
    number = roles.clustered.clamp(1, nearest.shape[2]) - 1
    reach = nearest.gather(2, number[:, None, None].expand(-1, most, 1))[:, :, 0]
    reach = torch.where(roles.here, reach, NOWHERE)
    ordered = reach.topk(most // 2 + 1, dim=1, largest=False).values.clamp(min=0.0)
    middle = torch.stack([(roles.clustered - 1).clamp(min=0) // 2, roles.clustered // 2], dim=1)
    low, high = ordered.gather(1, middle).unbind(1)
    # Of an odd number it is one of the distances, to the last bit.
    between = (low.sqrt() + high.sqrt()) * 0.5
    return torch.where(low == high, low, torch.maximum(low, between * between))


def smallest(squares: torch.Tensor, number: int, *, fused: bool) -> torch.Tensor:
    """(N, M, number): the smallest of each row, in order.

    They are in the `number` blocks of a row whose least ones are smallest: where blocks are few and short beside the
    row, that is less to put into order.
    """
    if fused and number <= _PASSES:
        return _one_by_one(squares, number)
    most = squares.shape[2]
    width = max((width for width in _WIDTHS if most % width == 0), default=most)
    if number * (width + most // width) < most:
        blocks = squares.reshape(-1, most, most // width, width).amin(3).topk(number, dim=2, largest=False).indices
        chosen = rows(squares.reshape(-1, most * most // width, width), _in_image(blocks, most // width))
        squares = chosen.reshape(-1, most, number * width)
    return squares.topk(number, dim=2, largest=False).values


def _one_by_one(squares: torch.Tensor, number: int) -> torch.Tensor:
    """(N, M, number): the least of each row, then the least above it or, where there are several, that again."""
    found = [squares.amin(2)]
    for place in range(1, number):
        # By arithmetic: a choice between two tensors takes Inductor's code several times as long.
        taken = (squares <= found[-1][:, :, None]).float()
        above = (squares + taken * _ABOVE_ALL).amin(2)
        found.append(torch.where(taken.sum(2) > place, found[-1], above))
    return torch.stack(found, dim=2)


def _in_image(blocks: torch.Tensor, each: int) -> torch.Tensor:
    """(N, M k): numbers (N, M, k) of a row's blocks as those of an image's, of which each row has so many."""
    first = constant(np.arange(blocks.shape[1]) * each, blocks)
    return (blocks + first[:, None]).flatten(1)


def order_statistic(distances: Distances, rank: torch.Tensor, *, unrolled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each image's squared distances the one of this rank, by counting how many are at or below a bound.

    First the bound is where a line between the two ends of what is left crosses the rank; an end that stays twice
    counts half, as in the Illinois form of regula falsi. What that doesn't find is halved: the powers of two between
    the ends, then, within one, the numbers.

    Parameters
    ----------
    distances : Distances
    rank : (N,) int64
        Counted from 0, where each distance of a pair stands twice.
    unrolled : bool

    Returns
    -------
    value : (N,) float32
        At least 0. What is below 2^-100 of the largest is one number.
    converged : (N,) bool
    """
    squares, wanted = distances.squares, rank.float() + 1.0
    most = squares.shape[2]

    def count(bound: torch.Tensor) -> torch.Tensor:
        # Row by row it is exact in float32.
        return (most - (squares > bound[:, None, None]).float().sum(2)).long().sum(1).float()

    def narrow(
        low: torch.Tensor,
        high: torch.Tensor,
        below: torch.Tensor,
        above: torch.Tensor,
        moved: torch.Tensor,
        tries: torch.Tensor,
    ) -> tuple[State, torch.Tensor]:
        """One bound more; `moved` is -1 or 1, of the end that moved last, and 0 where it is found."""
        middle = _middle(low, high)
        bound = torch.where(high > 2.0 * low, low.sqrt() * high.sqrt(), middle)
        if not unrolled:
            crossing = low - below * ((high - low) / (above - below))
            bound = torch.where((tries > 0) & (crossing > low) & (crossing < high), crossing, bound)
        counted = count(bound)
        off = counted - wanted - 0.5
        open_, upper = (moved != 0) & (middle > low) & (middle < high), off > -1.0
        halved = torch.where(torch.where(upper, 1.0, -1.0) == moved, 0.5, 1.0)
        # The other one of the pair may be there as well.
        following = torch.where(upper, torch.where(off < 1.0, 0.0, 1.0), -1.0)
        state = (
            torch.where(open_ & ~upper, bound, low),
            torch.where(open_ & upper, bound, high),
            torch.where(upper, below * halved, off),
            torch.where(upper, off, above * halved),
            torch.where(open_, following, 0.0),
            tries - 1.0,
        )
        return state, (state[4] != 0).any()

    low = distances.largest * 2.0**-100
    below = count(low) - wanted - 0.5
    there = below > -1.0
    state = (
        low,
        torch.where(there, low, distances.largest),
        below,
        torch.full_like(low, float(most) ** 2) - wanted - 0.5,
        torch.where(there, 0.0, 2.0),
        torch.full_like(low, _CROSSINGS),
    )
    low, high, _, _, moved, _ = repeat(narrow, state, _HALVINGS if unrolled else None)
    # The largest at or below the upper end.
    value = (squares * (squares <= high[:, None, None]).float()).amax((1, 2)).clamp(min=0.0)
    middle = _middle(low, high)
    return value, (moved == 0) | (middle <= low) | (middle >= high)


def _middle(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    return low + (high - low) * 0.5
