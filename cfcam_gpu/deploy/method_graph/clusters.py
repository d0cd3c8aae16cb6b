"""Step 2: DBSCAN of a graph that is known, on a whole batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from .constants import constant
from .loops import State, repeat


class Groups(NamedTuple):
    """Which of the M channels that are clustered belong together.

    Parameters
    ----------
    lowest : (N, M) int64
        The lowest core channel of a channel's cluster; M is noise.
    here : (N, M) float32
        1 where it is a channel.
    """

    lowest: torch.Tensor
    here: torch.Tensor

    @property
    def clustered(self) -> torch.Tensor:
        """(N, M) bool: in a cluster."""
        return (self.lowest < self.lowest.shape[1]) & (self.here > 0)

    def mean(self, values: torch.Tensor, *, unrolled: bool) -> torch.Tensor:
        """(N, M): of values (N, M) the mean over a channel's group; the noise is a group like a cluster."""
        values = values * self.here
        if unrolled:
            same = self._same()
            sums, counts = ((same * part[:, None, :]).sum(2) for part in (values, self.here))
        else:
            # One after the other into one sum: float32 would lose some of a large group.
            sums, counts = (self._sums(part.double()) for part in (values, self.here))
        return (sums / counts.clamp(min=1.0)).float()

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        groups = values.new_zeros(values.shape[0], values.shape[1] + 1)
        return groups.scatter_add(1, self.lowest, values).gather(1, self.lowest)

    def mean_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, M, P): the same of maps (N, M, P)."""
        same = self._same() * self.here[:, None, :]
        return (same @ maps) / same.sum(2, keepdim=True).clamp(min=1.0)

    def _same(self) -> torch.Tensor:
        return (self.lowest[:, :, None] == self.lowest[:, None, :]).float()


def dbscan(far: torch.Tensor, min_samples: torch.Tensor, *, unrolled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """DBSCAN, as scikit-learn numbers it: a border point is in the first cluster that reaches it.

    Parameters
    ----------
    far : (N, M, M) float32
        0 where two points are near each other, 1 where not; symmetric. What is no point is far from itself.
    min_samples : (N,) int64
    unrolled : bool

    Returns
    -------
    index : (N, M) int64
        The lowest core point of a point's cluster; M is noise.
    converged : (N,) bool
    """
    most = far.shape[1]
    core = (most - far.sum(2)) >= min_samples[:, None]
    # Below 1 they are numbers of core points, so that `far` lifts all others above them.
    unit = 2.0 ** math.ceil(math.log2(most + 1))
    numbers = constant(np.arange(most, dtype=np.float32) / np.float32(unit), far)

    def index(lowest: torch.Tensor) -> torch.Tensor:
        return (lowest * unit).long().clamp(max=most - 1)

    def reached(lowest: torch.Tensor) -> torch.Tensor:
        """The lowest number of a core point near each point."""
        return (far + lowest[:, None, :]).amin(2)

    def step(lowest: torch.Tensor, _: torch.Tensor) -> tuple[State, torch.Tensor]:
        found = reached(lowest)
        following = torch.where(core, found, 1.0)
        going = (following != lowest).any()
        # What a point has found is its old root's, too, and everybody goes on to the root of the root.
        following = _hook(following, index(lowest), unrolled=unrolled)
        for _again in range(2):
            following = torch.where(core, following.gather(1, index(following)), 1.0)
        return (following, found), going

    start = torch.where(core, numbers, 1.0), torch.ones_like(far[:, 0])
    if unrolled:
        lowest, _ = repeat(step, start, math.ceil(math.log2(most + 1)) + 2)
        found = reached(lowest)
    else:
        lowest, found = repeat(step, start, None)
    # A border point has what the core points near it have.
    converged = (torch.where(core, found, 1.0) == lowest).all(1)
    return (found * unit).long().clamp(max=most), converged


def _hook(found: torch.Tensor, root: torch.Tensor, *, unrolled: bool) -> torch.Tensor:
    """Each root's number, or the lowest that one of its points (N, M) has found, if that is lower."""
    if not unrolled:
        return found.scatter_reduce(1, root, found, "amin", include_self=True)
    places = constant(np.arange(root.shape[1]), root)
    others = (root[:, None, :] != places[None, :, None]).float()
    return torch.minimum(found, (others + found[:, None, :]).amin(2))
