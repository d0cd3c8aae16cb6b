"""Removed pixels filled in from what is left: ROAD's linear imputation, for a whole batch and on its device.

Each removed pixel becomes the weighted mean of its 8 neighbours, 1/6 for those beside it and 1/12 for those at a
corner, rescaled where the border takes some away; known neighbours enter with their value, removed ones as unknowns
(Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022, arXiv:2202.00449).
The system is symmetric and positive definite, a Laplacian, so it is solved by conjugate gradients without ever building
its matrix; a multigrid cycle as preconditioner makes that take some ten iterations whatever the size of a hole.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

#: Largest residual of an equation, relative to the image's largest value. Pixels are then right to ten times that.
TOLERANCE = 1e-5
MAX_ITERATIONS = 200

#: Damping of the Jacobi sweeps inside a multigrid cycle.
DAMPING = 0.8


class _Level(NamedTuple):
    """One grid: 1 where a pixel is unknown, (N, 1, h, w), and the sum of a pixel's weights, (1, 1, h, w)."""

    unknown: torch.Tensor
    degree: torch.Tensor


def impute(images: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """Images with their removed pixels filled in.

    Parameters
    ----------
    images : (N, C, H, W) float32 or float64 tensor
    removed : (N, H, W) bool tensor
        At least one pixel of each image has to be left.

    Returns
    -------
    (N, C, H, W) tensor in the dtype of the images
        What was not removed is unchanged.

    Raises
    ------
    ValueError
        If an image has no pixel left.
    RuntimeError
        If the system was not solved, as with NaN in the images.
    """
    if bool(removed.flatten(1).all(dim=1).any()):
        raise ValueError("removed: expected at least one pixel of each image to be left; one has none")
    unknown = removed[:, None].to(images.dtype)
    levels = _levels(unknown)
    known = images * (1 - unknown)
    filled = torch.zeros_like(images)
    residual = _neighbours(known) * unknown
    direction, energy = torch.zeros_like(images), torch.ones_like(images[..., :1, :1])
    tolerance = TOLERANCE * images.abs().amax(dim=(1, 2, 3), keepdim=True)
    for _ in range(MAX_ITERATIONS):
        if bool((residual.abs() <= tolerance).all()):
            return known + filled
        smooth = _cycle(residual, levels)
        previous, energy = energy, _dot(residual, smooth)
        direction = smooth + _ratio(energy, previous) * direction
        applied = _apply(direction, levels[0])
        length = _ratio(energy, _dot(direction, applied))
        filled = filled + length * direction
        residual = residual - length * applied
    raise RuntimeError(f"images: imputation has not converged within {MAX_ITERATIONS} iterations; are they finite?")


def _neighbours(values: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the 8 neighbours, nothing beyond the border: ([1 2 1] x [1 2 1] without its centre) / 12."""
    padded = functional.pad(values, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * values) / 12


def _apply(values: torch.Tensor, level: _Level) -> torch.Tensor:
    """The system's matrix times values that are zero outside of `unknown`."""
    return (level.degree * values - _neighbours(values)) * level.unknown


def _levels(unknown: torch.Tensor) -> list[_Level]:
    """The grid and ever coarser ones; a coarse pixel is unknown where the four under it are."""
    levels = []
    while True:
        levels.append(_Level(unknown, _neighbours(torch.ones_like(unknown[:1]))))
        height, width = unknown.shape[-2:]
        if min(height, width) <= 2:
            return levels
        # What lies beyond the border hangs on nothing, so it must not make a coarse pixel known.
        unknown = 1 - functional.max_pool2d(functional.pad(1 - unknown, (0, width % 2, 0, height % 2)), 2)


def _cycle(residual: torch.Tensor, levels: list[_Level]) -> torch.Tensor:
    """One symmetric V-cycle: an approximate solution for `residual`.

    The stencil serves each level as it is: a Laplacian without its 1 / h^2 is the same on all of them, if residuals are
    summed on the way down.
    """
    level, coarser = levels[0], levels[1:]
    step = DAMPING / level.degree
    values = step * residual
    if coarser:
        height, width = residual.shape[-2:]
        left = functional.pad(residual - _apply(values, level), (0, width % 2, 0, height % 2))
        below = _cycle(4 * functional.avg_pool2d(left, 2) * coarser[0].unknown, coarser)
        above = below.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)[..., :height, :width]
        values = values + above * level.unknown
    return values + step * (residual - _apply(values, level))


def _dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first * second).sum(dim=(-2, -1), keepdim=True)


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """0 where both vanish: that image is solved, others of the batch are not."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)
