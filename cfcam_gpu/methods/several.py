"""CAMs that make one map of many layers at once.

Each takes the :class:`AtLayer` of every layer, and the grid of the map, and returns raw maps (B, T, *grid) float32 on
the device of the activations: >= 0, not normalised. Nothing is read by the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from ..core.axes import last_axes
from ..core.maps import Inside, interpolate
from .gradient import gradcam, gradcam_plusplus

#: The percentile of the layers' importances at which Winsor-CAM cuts them, as in its authors' example.
PERCENTILE = 90
#: What Winsor-CAM weighs the least important layer of those that matter with; the most important one has 1.
LEAST = 0.1


@dataclass(frozen=True)
class AtLayer:
    """What was captured of one layer.

    Parameters
    ----------
    activations : (B, C, ...) tensor
    gradients : (B, T, C, ...) tensor
    inside : tuple of (float, float), optional
        The part of the layer's map that the grid of all layers' map takes; None is all of it.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    inside: Inside | None = None

    def spread(self, maps: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """Maps (B, T, ...) of this layer stretched to [0, 1] each, and interpolated to (B, T, *grid).

        A map that is the same everywhere has nothing to stretch: it is zero.
        """
        return interpolate(_stretched(maps, len(grid)), grid, self.inside)


def _stretched(maps: torch.Tensor, spatial_dims: int) -> torch.Tensor:
    axes = last_axes(spatial_dims)
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    # Divided first: the difference may overflow next to float32's end.
    return ((maps / high - low / high) / (1 - low / high)).masked_fill(high == low, 0.0)


def refinecam(layers: Sequence[AtLayer], grid: Sequence[int]) -> torch.Tensor:
    """RefineCAM: the product over layers of Grad-CAM++ maps at one size.

    Domeniconi et al., "How to Evaluate and Refine your CAM", 2026 (arXiv:2605.14641), with Grad-CAM++ at each layer and
    a stretch of its map to [0, 1] both before and after its interpolation, as in the authors' code. They interpolate to
    the image's size; here the product is taken at the grid of the finest layer. Grad-CAM++ is its paper's equation,
    without the 1e-6 that the authors' code adds to its denominator, 2 G^2 + S G^3.
    """
    spread = (layer.spread(gradcam_plusplus(layer.activations, layer.gradients), grid) for layer in layers)
    return reduce(torch.mul, (_stretched(maps, len(grid)) for maps in spread))


def winsorcam(layers: Sequence[AtLayer], grid: Sequence[int]) -> torch.Tensor:
    """Winsor-CAM: sum_l v_l M_l, where M_l is layer l's Grad-CAM stretched to [0, 1], and v_l its weight.

    Wall et al., "Winsor-CAM: Human-Tunable Visual Explanations from Deep Networks via Layer-Wise Winsorization", IEEE
    TPAMI 2026 (arXiv:2507.10846), with means over channels as in the authors' example. A layer's importance is ReLU of
    the mean over its channels of Grad-CAM's weights. Of the importances > 0, those beyond their percentile
    :data:`PERCENTILE` are set to that (Winsorized), and all are stretched to [:data:`LEAST`, 1]; where they are equal,
    they are 1. A layer of importance 0 counts for nothing. The authors' code also counts convolutions with a single
    position, such as those of squeeze-and-excitation, whose importances shift the least one and the percentile; what is
    chosen here where no layers are named leaves them out.
    """
    importances = torch.stack([layer.gradients.float().flatten(2).mean(dim=-1) for layer in layers]).relu()
    nothing = importances <= 0
    least = importances.masked_fill(nothing, torch.inf).amin(dim=0)
    cut = importances.masked_fill(nothing, torch.nan).nanquantile(PERCENTILE / 100, dim=0)
    most = torch.minimum(importances.amax(dim=0), cut)
    shares = (torch.minimum(importances, cut) - least) / (most - least)
    weights = (LEAST + (1 - LEAST) * shares).masked_fill(most == least, 1.0).masked_fill(nothing, 0.0)
    total = torch.zeros((), device=importances.device)
    for layer, weight in zip(layers, weights):
        maps = layer.spread(gradcam(layer.activations, layer.gradients), grid)
        total = total + weight.reshape(*weight.shape, *(1 for _ in grid)) * maps
    return total
