"""Whether images are those that were explained, as far as their form tells."""

from __future__ import annotations

import torch

from ..core.axes import INPUTS
from .record import Record, arranged


def check_images(explanation: Record, images: object) -> None:
    """Refuse what has not the dtype, the shape and the device of the images explained.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a torch tensor (B, 3, H, W); got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected a floating dtype, prepared as for the explanation; got {images.dtype}")
    if explanation.origin is not None and images.dtype != explanation.origin.dtype:
        raise TypeError(f"images: expected {explanation.origin.dtype}, as those explained; got {images.dtype}")
    if len(explanation) == 0:
        raise ValueError("images: expected at least one; this explanation is a part of none")
    size, shape = explanation.size, tuple(arranged(explanation, images).shape)
    if len(shape) != len(size) + 2 or (shape[0], *shape[2:]) != (len(explanation), *size):
        channels = INPUTS[len(size)].split(", ")[1]
        wanted = ", ".join(map(str, (len(explanation), channels, *size)))
        raise ValueError(f"images: expected those that were explained, ({wanted}); got {shape}")
    if images.device != explanation.raw_maps.device:
        raise ValueError(
            f"images: expected device '{explanation.raw_maps.device}', as for the explanation; got '{images.device}'"
        )
