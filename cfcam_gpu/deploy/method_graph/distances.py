"""Squared distances between the channels that are clustered."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ...core.cluster_filter import MIN_EPS
from ...core.config import Config
from .channels import Roles, Scaled, once, rows
from .constants import constant

#: Squared distances of what is no channel: above all others, and finite, so that products with 0 are 0.
NOWHERE = 1e30
#: Of the mean that is taken off, so many binary digits behind the point are kept: points on a grid stay on one, and
#: equal distances equal.
_GRID = 128.0
#: Of the largest norm, what the squared distance of two equal directions stays below: measured, for up to 3136
#: positions, it is 8 halves of a unit in float32's last place.
_ROUNDING = 16.0 * 2.0**-24
#: Bands of rows in which products are taken, and from how many points on that pays.
_BANDS, _BANDED = 4, 256


class Distances(NamedTuple):
    """Squared distances.

    Parameters
    ----------
    squares : (N, M, M) float32
        Symmetric, in units of an image's own; 0 on the diagonal and between equal points, as far as a runtime's matrix
        products add up in the same order everywhere; may be below 0 by rounding elsewhere.
    largest : (N,) float32
        None is above it.
    smallest_eps : (N,) float32
        The square of :data:`~cfcam_gpu.core.cluster_filter.MIN_EPS` in these units.
    """

    squares: torch.Tensor
    largest: torch.Tensor
    smallest_eps: torch.Tensor


def measure(scaled: Scaled, roles: Roles, config: Config) -> Distances:
    """Squared distances of the channels that are clustered."""
    present = roles.here.float()
    lengths = scaled.lengths.gather(1, roles.chosen)
    if config.distance == "unit_norm":
        # A dead channel that was not set aside has no direction: it stays at the origin.
        factors, smallest = present / torch.where(lengths > 0, lengths, 1.0), torch.full_like(lengths[:, 0], MIN_EPS)
    else:
        exponents = torch.where(roles.here, scaled.exponents.gather(1, roles.chosen), -126.0)
        most = exponents.amax(1)
        factors = present * torch.exp2(exponents - most[:, None])
        # Far above all distances is enough.
        smallest = (MIN_EPS * torch.exp2(-most)).clamp(max=1e14)
    lengths, added = once(lengths * factors, (1.0 - present) * NOWHERE)
    points = rows(scaled.directions, roles.chosen) * factors[:, :, None]
    points = points - _middle_of(points, lengths, roles, config)

    products, norms = pair_products(points, added)
    largest = (norms * present).amax(1)
    squares = products + (norms[:, :, None] + norms[:, None, :])
    smallest_eps = smallest * smallest
    if config.distance == "unit_norm":
        # Directions that are equal are told apart by the rounding of their lengths.
        smallest_eps = torch.maximum(smallest_eps, _ROUNDING * largest)
    return Distances(squares, 5.0 * largest, smallest_eps)


def pair_products(points: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, M, M): products of points (N, M, P), times -2; and (N, M): half their squares' sums, plus `added` (N, M).

    Each of two points once: in bands of rows, of which the part before the diagonal is turned from those above. The
    sums are the products' own diagonal: equal points have equal products, and what is left of them is 0 exactly.
    """
    most = points.shape[1]
    edges = [most * place // _BANDS for place in range(_BANDS + 1)] if most >= _BANDED else [0, most]
    bands: list[tuple[int, torch.Tensor]] = []
    whole, norms = [], []
    for first, end in pairwise(edges):
        band = (points[:, first:end] * -2.0) @ points[:, first:].transpose(1, 2)
        before = [above[:, :, first - start : end - start].transpose(1, 2) for start, above in bands]
        whole.append(torch.cat([*before, band], dim=2))
        bands.append((first, band))
        # As a sum, which Inductor computes once: an element of a diagonal it would look up again for each pair.
        place = constant(np.arange(end - first, dtype=np.float32), band)
        diagonal = (place[:, None] == place).float()
        own = band[:, :, : end - first] * -0.5 + added[:, first:end, None]
        norms.append((own * diagonal).sum(2))
    return torch.cat(whole, dim=1), torch.cat(norms, dim=1)


def _middle_of(points: torch.Tensor, lengths: torch.Tensor, roles: Roles, config: Config) -> torch.Tensor:
    """(N, 1, P): what is taken off all points (N, M, P), which changes no distance, but how products are rounded.

    Around their mean products are smallest. Where that is by less than half, points stay as they are, which is better
    where a few are large and most are small.
    """
    count = roles.clustered.clamp(min=1).float()[:, None]
    middle = points.sum(1) / count
    if config.distance == "euclidean":
        middle = (middle * _GRID).round() / _GRID
    saved, all_of_them = (middle * middle).sum(1, keepdim=True) * count, (lengths * lengths).sum(1, keepdim=True)
    return torch.where(saved > 0.5 * all_of_them, middle, 0.0)[:, None, :]
