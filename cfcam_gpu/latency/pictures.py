"""What is explained while times are taken: photographs, or noise where there are none."""

from __future__ import annotations

import torch

from ..photographs import photos, reading
from ..photographs.photos import Preparation


def pictures(count: int, preparation: Preparation) -> tuple[torch.Tensor, str]:
    """Images as a model wants them, and which they are.

    Parameters
    ----------
    count : int
        More than there are photographs have each mirrored, too, and then all again.
    preparation : Preparation

    Returns
    -------
    tuple of (count, 3, size, size) float32 tensor, and str
    """
    try:
        found = [preparation.pixels(reading.read(path)) for path in photos.samples()]
        kind = "the sample photographs"
    except FileNotFoundError:
        coarse = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        side = preparation.size
        noise = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
        found, kind = list((255 * noise).byte()), "smooth noise: the sample photographs need the extra demo"
    found += [image.flip(-1) for image in found]
    return preparation.normalize(torch.stack([found[i % len(found)] for i in range(count)])), kind
