"""What is explained while times are taken: photographs, or noise where there are none."""

from __future__ import annotations

from contextlib import suppress

import torch

from ..image_files import photos, reading
from ..image_files.photos import Preparation


def pictures(count: int, preparation: Preparation) -> tuple[torch.Tensor, str]:
    """Images as a model wants them, and which they are.

    Parameters
    ----------
    count : int
        More than there are photographs have each mirrored, too, and then all again.
    preparation : Preparation

    Returns
    -------
    tuple of (count, C, height, width) float32 tensor, and str
    """
    found: list[torch.Tensor] = []
    kind = "the sample photographs"
    if preparation.is_of_photographs:
        with suppress(FileNotFoundError):
            found = [preparation.pixels(reading.read(path)) for path in photos.samples()]
    if not found:
        coarse = torch.rand(8, preparation.channels, 12, 12, generator=torch.Generator().manual_seed(0))
        size = preparation.height, preparation.width
        noise = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
        found, kind = list((255 * noise).byte()), "smooth noise: the sample photographs need the extra demo"
        if not preparation.is_of_photographs:
            mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
            found, kind = list(mean + std * (2 * noise - 1)), "smooth noise, as the model takes no photographs"
    found += [image.flip(-1) for image in found]
    return preparation.normalize(torch.stack([found[i % len(found)] for i in range(count)])), kind
