"""Maps of MONAI's images in the space of their files: a MetaTensor knows where its voxels lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .grid import Grid

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor


def in_file_space(maps: torch.Tensor, image: MetaTensor) -> MetaTensor:
    """Maps of an image that MONAI's transforms have turned, resampled, cropped or padded, on the grid of its file.

    MONAI's axes are X, Y and Z, so that maps of its images have them, too, where ours are called D, H and W.

    Parameters
    ----------
    maps : (X, Y, Z) or (T, X, Y, Z) tensor
        ``result.maps[0]``, say.
    image : (C, X, Y, Z) MetaTensor
        What was explained, one image of the batch, as LoadImage and the transforms behind it made it.

    Returns
    -------
    (1, X, Y, Z) or (T, X, Y, Z) MetaTensor, float32, on the host
        Of the file's shape and affine, resampled trilinearly, 0 outside of what the network saw. MONAI's ``SaveImage``
        writes it as it is.

    Raises
    ------
    TypeError
        If `image` is a plain tensor, which has lost its place.
    ValueError
        If it doesn't say where its file's voxels lie, has transforms pending, or the maps aren't of its shape.
    ModuleNotFoundError
        If MONAI is not installed.
    """
    from monai.data.meta_tensor import MetaTensor

    if not isinstance(image, MetaTensor):
        raise TypeError(
            f"image: expected a MetaTensor, which knows where it lies; got {type(image).__name__}. An operation "
            "between may have made a plain tensor of it"
        )
    if image.pending_operations:
        raise ValueError("image: expected no transforms pending; apply them with monai.transforms.Compose, lazy=False")
    missing = [key for key in ("original_affine", "spatial_shape") if key not in image.meta]
    if missing or image.ndim != 4 or image.affine.shape != (4, 4):
        raise ValueError(
            "image: expected one image (C, X, Y, Z) that LoadImage read, with original_affine and spatial_shape in its "
            f"meta; got shape {tuple(image.shape)}{f' without {chr(32).join(missing)}' * bool(missing)}"
        )
    if maps.shape[-3:] != image.shape[1:] or maps.ndim not in (3, 4):
        raise ValueError(f"maps: expected {tuple(image.shape[1:])}, as the image; got {tuple(maps.shape)}")
    x, y, z = (int(side) for side in torch.as_tensor(image.meta["spatial_shape"])[:3])
    seen = Grid(_three(image.shape[1:]), np.asarray(image.affine.cpu(), np.float64))
    file = Grid((x, y, z), np.asarray(torch.as_tensor(image.meta["original_affine"]).cpu(), np.float64))
    each = maps.detach().float().cpu().reshape(-1, *seen.shape).numpy()
    found = torch.stack([torch.from_numpy(seen.sampled(values, file)) for values in each])
    meta = {key: value for key, value in image.meta.items() if key != "affine"}
    return MetaTensor(found, affine=torch.from_numpy(file.affine), meta=meta)


def _three(shape: torch.Size) -> tuple[int, int, int]:
    x, y, z = shape
    return x, y, z
