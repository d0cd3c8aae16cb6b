"""Steps 3 to 5: filtered gradients, weights and the map."""

from __future__ import annotations

from math import prod

import numpy as np
import torch

from ...core.cluster_filter import noise_left
from ...core.config import Config
from .channels import Roles, once, rows, spread
from .clusters import Groups
from .constants import constant, smoothed_ones
from .filters import smooth

#: A floor that nothing is above.
_ABOVE_ALL = 1e30


class Weighing:
    """The map of each image from its clusters; everything in units of powers of two, the caller's.

    Parameters
    ----------
    config : Config
    size : tuple of int
        Of a map, of P positions.
    unrolled : bool
    """

    def __init__(self, config: Config, size: tuple[int, ...], *, unrolled: bool) -> None:
        self.config = config
        self.size = size
        self.unrolled = unrolled
        self.inside = np.ones(size) if config.sigma == 0 else smoothed_ones(size, config.sigma, config.boundary)

    def weights(
        self, gradients: torch.Tensor, pooled: torch.Tensor, roles: Roles, groups: Groups | None
    ) -> torch.Tensor:
        """Of ``combine="pooled"`` the channels' weights (N, C), of gradients (N, C, P) and their means (N, C)."""
        filtered = pooled
        if not np.allclose(self.inside, 1.0, rtol=0, atol=1e-12):
            profile = (self.inside.reshape(-1) / prod(self.size)).astype(np.float32)
            filtered = (gradients * constant(profile, gradients)).sum(2)
        valid = roles.dominant
        if groups is not None:
            clustered = groups.clustered.float()
            in_cluster = spread(clustered, roles, torch.zeros_like(pooled)) > 0
            valid = valid | in_cluster
        if self.config.gradient == "own":
            weights = torch.where(roles.alive, filtered, 0.0)
        else:
            weights = torch.where(roles.dominant, pooled, 0.0)
            if groups is not None:
                means = groups.mean(filtered.gather(1, roles.chosen), unrolled=self.unrolled)
                weights = spread(means * clustered, roles, weights)
        if self.config.weighting == "linear":
            return weights
        largest = torch.where(valid, weights, -torch.finfo(torch.float32).max).amax(1, keepdim=True)
        shares = torch.where(valid, (weights - largest).clamp(max=0.0).exp(), 0.0)
        return shares / shares.sum(1, keepdim=True).clamp(min=1.0)

    def evidence(
        self, activations: torch.Tensor, gradients: torch.Tensor, roles: Roles, groups: Groups | None
    ) -> torch.Tensor:
        """Of the other ways to combine the sums (N, P), before their ReLU, of two (N, C, P)."""
        if self.config.gradient == "own":
            filtered = smooth(gradients, self.size, self.config)
            return self._combined(activations, gradients, filtered, roles.alive, roles, groups)
        found = self._combined(activations, gradients, gradients, roles.dominant, None, None)
        if groups is None:
            return found
        own = rows(gradients, roles.chosen)
        filtered = smooth(groups.mean_maps(own), self.size, self.config)
        return found + self._combined(rows(activations, roles.chosen), own, filtered, groups.clustered, None, groups)

    def _combined(
        self,
        activations: torch.Tensor,
        gradients: torch.Tensor,
        filtered: torch.Tensor,
        taking_part: torch.Tensor,
        roles: Roles | None,
        groups: Groups | None,
    ) -> torch.Tensor:
        """(N, P): the sum over channels; `groups` are of those of `roles`, or, without, of the channels given."""
        if self.config.combine == "elementwise":
            return ((filtered * activations) * taking_part.float()[:, :, None]).sum(1)
        floor = self._floor(gradients, filtered, roles, groups)
        floor, _ = once(torch.where(taking_part, floor, _ABOVE_ALL), floor)
        return ((filtered - floor[:, :, None]).relu() * activations).sum(1)

    def _floor(
        self, gradients: torch.Tensor, filtered: torch.Tensor, roles: Roles | None, groups: Groups | None
    ) -> torch.Tensor:
        """(N, C), as :func:`cfcam_gpu.core.cluster_filter.noise_floor`."""
        left = 0.0 if self.config.noise_floor == 0 else noise_left(self.config.sigma, len(self.size))
        if left == 0:
            return torch.zeros_like(gradients[:, :, 0])
        residual = gradients - filtered * constant((1.0 / self.inside).reshape(-1).astype(np.float32), gradients)
        variance = (residual * residual).mean(2)
        if groups is not None and roles is not None:
            shared = groups.mean(variance.gather(1, roles.chosen), unrolled=self.unrolled)
            variance = spread(shared, roles, variance)
        elif groups is not None:
            variance = groups.mean(variance, unrolled=self.unrolled)
        floor: torch.Tensor = variance.sqrt() * (self.config.noise_floor * left**0.5)
        return floor
