"""Two levels: a fine layer says where, a coarse one says whose."""

from __future__ import annotations

import torch

from .axes import last_axes
from .maps import enlarged


def gate(raw_maps: torch.Tensor, activations: torch.Tensor, gradients: torch.Tensor, constant: float) -> torch.Tensor:
    """Maps of the fine layer where the coarse layer sees the target, too.

    A layer halfway up a network localises well and hardly tells classes apart; the last one is the other way round.
    The fine map is multiplied by c^2 / (c^2 + constant), with c the coarse layer's Grad-CAM map (Selvaraju et al., ICCV
    2017), upsampled to the fine layer and divided by its maximum: near 0 where the target has no coarse evidence, near
    1 wherever it has some, so that the fine map alone gives the shape there.

    Parameters
    ----------
    raw_maps : (B, T, *spatial) float32, >= 0
        Of the fine layer.
    activations : (B, C, *spatial') floating
        Of the coarse layer.
    gradients : (B, T, C, *spatial') floating
        Of the targets' scores with respect to them.
    constant : float
        c^2 at which half of the fine map passes.

    Returns
    -------
    (B, T, *spatial) float32
    """
    dims = activations.ndim - 2
    weights, activations = gradients.float().mean(dim=last_axes(dims), keepdim=True), activations.float()
    # Sums, not a matrix product: those are float32 whatever the caller's autocast or TF32 flags say.
    sums = [(weight * activations).sum(dim=1) for weight in weights.unbind(dim=1)]
    coarse = torch.stack(sums, dim=1).relu()
    squared = enlarged(coarse, raw_maps.shape[2:]).square()
    return raw_maps * (squared / (squared + constant))
