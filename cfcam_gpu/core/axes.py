"""The spatial axes of what is explained: one of a signal, two of an image, three of a volume."""

from __future__ import annotations

from torch import nn

#: Inputs and activations by their number of spatial axes, as errors write them.
INPUTS = {1: "(B, C, L)", 2: "(B, 3, H, W)", 3: "(B, C, D, H, W)"}
ACTIVATIONS = {1: "(B, C, l)", 2: "(B, C, h, w)", 3: "(B, C, d, h, w)"}
INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}

_CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


def last_axes(spatial_dims: int) -> tuple[int, ...]:
    """The last `spatial_dims` axes of a tensor, counted from its end: (-2, -1) of an image."""
    return tuple(range(-spatial_dims, 0))


def of_model(model: nn.Module) -> int | None:
    """How many spatial axes the model's first convolution works on; None where there is no convolution."""
    for module in model.modules():
        for kind, spatial_dims in _CONVOLUTIONS.items():
            if isinstance(module, kind):
                return spatial_dims
    return None
