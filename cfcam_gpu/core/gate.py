"""The gate: a map keeps what lies where the target has evidence as a whole."""

from __future__ import annotations

import torch

from .axes import last_axes
from .config import Config
from .maps import enlarged


def gated(
    raw_maps: torch.Tensor,
    activations: torch.Tensor,
    gradients: torch.Tensor,
    config: Config,
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Raw maps (B, T, *spatial) of a layer with the gate of a configuration, if it has one.

    Parameters
    ----------
    raw_maps : (B, T, *spatial) float32, >= 0
    activations, gradients : (B, C, *spatial), (B, T, C, *spatial) floating
        Of the layer.
    config : Config
    coarse : tuple of two tensors, optional
        The same of the coarser of two levels.

    Raises
    ------
    ValueError
        If the configuration has two levels, and no coarse layer is given.
    """
    if config.gate is None:
        return raw_maps
    if config.gate_by == "own":
        coarse = activations, gradients
    if coarse is None:
        raise ValueError("coarse: expected two tensors, as the configuration has two levels; got None")
    return gate(raw_maps, *coarse, config)


def gate(raw_maps: torch.Tensor, activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> torch.Tensor:
    """Maps where the target has evidence as a whole: times c^2 / (c^2 + gate).

    A layer halfway up a network localises well and hardly tells classes apart; the last one is the other way round. So
    with two levels c is the coarse layer's Grad-CAM map (Selvaraju et al., ICCV 2017), upsampled to the fine layer. The
    tokens of a transformer have one resolution, and gradients that differ from position to position: there c is the
    net evidence of the layer itself, HiResCAM's map (Draelos and Carin, arXiv:2011.08891). Either is divided by its
    maximum, so that the factor is near 0 where the target has no such evidence, near 1 wherever it has some.

    Parameters
    ----------
    raw_maps : (B, T, *spatial) float32, >= 0
        Of the fine layer.
    activations : (B, C, *spatial') floating
        Of the coarse layer, or of the layer itself where the configuration is gated by its own evidence.
    gradients : (B, T, C, *spatial') floating
        Of the targets' scores with respect to them.
    config : Config
        With a gate.

    Returns
    -------
    (B, T, *spatial) float32
    """
    assert config.gate is not None
    dims = activations.ndim - 2
    activations, gradients = activations.float(), gradients.float()
    if config.gate_by == "coarse":
        gradients = gradients.mean(last_axes(dims), keepdim=True)
    # Sums, not a matrix product: those are float32 whatever the caller's autocast or TF32 flags say.
    sums = [(gradient * activations).sum(dim=1) for gradient in gradients.unbind(dim=1)]
    squared = enlarged(torch.stack(sums, dim=1).relu(), raw_maps.shape[2:]).square()
    return raw_maps * (squared / (squared + config.gate))
