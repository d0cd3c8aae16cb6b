"""Step 1: which channels are dead, which dominant, and the rest side by side, to be clustered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ...core.config import Config
from .constants import Ranks, constant


class Scaled(NamedTuple):
    """Activations of which no square is out of float32's range.

    Parameters
    ----------
    directions : (N, C, P) float32
        Each channel over a power of two, which rounds nothing, so that its largest magnitude is from 1 to below 2.
    lengths : (N, C) float32
        Their L2 norms.
    exponents : (N, C) float32
        Of the powers of two.
    """

    directions: torch.Tensor
    lengths: torch.Tensor
    exponents: torch.Tensor

    @property
    def norms(self) -> torch.Tensor:
        """(N, C) float32: L2 norms over the power of two of an image's largest channel."""
        return self.lengths * torch.exp2(self.exponents - self.exponents.amax(1, keepdim=True))


class Roles(NamedTuple):
    """What the channels are to the method.

    Parameters
    ----------
    alive, dominant, rest : (N, C) bool
        ``rest`` is what is alive and not dominant.
    chosen : (N, M) int64
        The rest in the order of the channels, then others, each once.
    here : (N, M) bool
        Which of ``chosen`` are the rest.
    clustered : (N,) int64
        How many are.
    """

    alive: torch.Tensor
    dominant: torch.Tensor
    rest: torch.Tensor
    chosen: torch.Tensor
    here: torch.Tensor
    clustered: torch.Tensor


def exponent(values: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """Of a power of two by which values are divided so that the largest magnitude along `dim` is near 1, float32."""
    largest = torch.maximum(values.amax(dim), -values.amin(dim))
    # Where it ends, the powers of two and their inverses are still normal numbers.
    return torch.log2(largest).floor().clamp(-126.0, 126.0)


def scale(activations: torch.Tensor) -> Scaled:
    """Scale activations (N, C, P) float32 channel by channel."""
    exponents = exponent(activations, 2)
    exponents, factors = once(exponents, torch.exp2(-exponents))
    directions = activations * factors[:, :, None]
    return Scaled(directions, (directions * directions).sum(2).sqrt(), exponents)


def assign(scaled: Scaled, pooled: torch.Tensor, config: Config, ranks: Ranks) -> Roles:
    """The channels' roles.

    Parameters
    ----------
    scaled : Scaled
    pooled : (N, C) float32
        Spatial means of the gradients.
    config : Config
    ranks : Ranks
        ``most_clustered`` above 0 is M.
    """
    norms = scaled.norms
    if config.dead_threshold is None:
        alive = torch.ones_like(norms, dtype=torch.bool)
    else:
        alive = norms > config.dead_threshold * norms.amax(1, keepdim=True)
    importance = norms
    if config.importance == "contribution":
        # Over the largest, as what is tiny twice would vanish.
        importance = norms * (pooled * torch.exp2(-exponent(pooled, 1))[:, None]).abs()

    ordered = torch.where(alive, importance, -1.0).topk(ranks.most_dominant, dim=1).values
    rank = constant(ranks.dominant, norms).index_select(0, alive.long().sum(1))
    dominant = alive & (importance >= ordered.gather(1, rank[:, None]))
    rest = alive & ~dominant

    channels, most = norms.shape[1], ranks.most_clustered
    # The top of what falls from channel to channel, and is 0 for all others.
    order = constant(np.arange(channels, 0, -1, dtype=np.float32), norms)
    chosen = torch.where(rest, order, 0.0).topk(most, dim=1).indices
    # Where NaN is in no order there may be more; an index beyond its table would end the whole batch.
    clustered = rest.long().sum(1).clamp(max=most)
    here = constant(np.arange(most), norms)[None] < clustered[:, None]
    return Roles(alive, dominant, rest, chosen, here, clustered)


def once(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same tensors, two or more of one shape, that a compiler computes once, since side by side they are stored.

    What takes a channel's number to all its positions, Inductor would compute again for each few of these.
    """
    return torch.stack(values).unbind(0)


def rows(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(N, M, P): of (N, C, P) the rows (N, M) that are chosen.

    By one index over images and channels: a runtime copies whole rows, where ``gather`` takes number by number.
    """
    images, channels, positions = values.shape
    first = torch.arange(images, device=values.device)[:, None] * channels
    found: torch.Tensor = values.flatten(0, 1).index_select(0, (chosen + first).flatten())
    return found.reshape(-1, chosen.shape[1], positions)


def spread(values: torch.Tensor, roles: Roles, others: torch.Tensor) -> torch.Tensor:
    """(N, C): values (N, M) of the rest at their channels, and `others` (N, C) at all others."""
    return torch.where(roles.rest, torch.zeros_like(others).scatter(1, roles.chosen, values), others)
