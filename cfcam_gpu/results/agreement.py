"""Whether images are those explained, and what a model gives again is what it gave before."""

from __future__ import annotations

import torch

from ..core.axes import INPUTS
from .record import Record

#: How far what is seen again may be from what was explained, as a fraction of the maximum: arithmetic in another order
#: or TF32 stays well below, another image is far beyond.
TOLERANCE = 1e-2


def agree(again: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether each image's numbers, (B, ...) in both, are those of before, but for arithmetic."""
    if again.shape != before.shape:
        return False
    again, before = again.reshape(len(again), -1).float(), before.reshape(len(before), -1).float()
    # A logit of -infinity masks a class out, and is the same only as itself.
    finite = before.isfinite()
    bound = TOLERANCE * before.masked_fill(~finite, 0.0).abs().amax(dim=1, keepdim=True)
    return bool(torch.where(finite, (again - before).abs() <= bound, again == before).all())


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
    size, shape = explanation.size, tuple(explanation.arranged(images).shape)
    if len(shape) != len(size) + 2 or (shape[0], *shape[2:]) != (len(explanation), *size):
        channels = INPUTS[len(size)].split(", ")[1]
        wanted = ", ".join(map(str, (len(explanation), channels, *size)))
        raise ValueError(f"images: expected those that were explained, ({wanted}); got {shape}")
    if images.device != explanation.raw_maps.device:
        raise ValueError(
            f"images: expected device '{explanation.raw_maps.device}', as for the explanation; got '{images.device}'"
        )
