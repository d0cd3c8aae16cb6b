"""Maps in colour over what they explain: images, slices of volumes, lines of signals."""

from __future__ import annotations

import torch

from ..core.axes import INPUTS
from . import colours


def overlay(maps: torch.Tensor, images: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
    """Maps in colour over their images; the more evidence, the less of the image shows.

    Of a volume, (B, C, D, H, W), each slice along D is drawn. Signals, (B, C, L), are drawn as lines over their map by
    :func:`cfcam_gpu.results.signals.draw`.

    Parameters
    ----------
    maps : (B, H, W) or (B, T, H, W) float32 in [0, 1]
        Of volumes (B, D, H, W) or (B, T, D, H, W).
    images : (B, C, H, W) or (B, C, D, H, W)
        uint8, or floating: values in [0, 1] are taken as they are, an image that goes beyond (after normalisation, say)
        is stretched to [0, 1]. Three channels are colours; of any other number the mean is shown in gray:
        ``images[:, :1]`` shows the first. A pixel that is NaN or infinite is black; in a signal's line it is a gap.
    alpha : float in [0, 1]
        How much of the colour shows where the map is 1.
    colormap : str
        A matplotlib colormap.

    Returns
    -------
    (B, H, W, 3) or (B, T, H, W, 3) uint8; of volumes (B, D, H, W, 3) or (B, T, D, H, W, 3)

    Raises
    ------
    TypeError, ValueError
        If the shapes or devices don't match, `alpha` is out of range, or there is no such colormap.
    """
    check(maps, images, alpha)
    if images.ndim == 3:
        from . import signals  # matplotlib's figures take a while to import

        return signals.draw(maps, images, alpha=alpha, colormap=colormap)
    return colours.blend(maps, images, alpha=alpha, colormap=colormap)


def check(maps: torch.Tensor, images: torch.Tensor, alpha: float) -> None:
    """Refuse what :func:`overlay` can't draw.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a torch tensor; got {type(images).__name__}")
    if len(maps) == 0:
        raise ValueError("images: expected at least one; there are no maps, as of a part of none of the images")
    dims = images.ndim - 2 if images.ndim - 2 in INPUTS else 2
    wanted = (len(maps), *maps.shape[-dims:])
    if (len(images), *images.shape[2:]) != wanted or images.numel() == 0 or maps.ndim - dims not in (1, 2):
        axes = INPUTS[dims].strip("()").split(", ")
        raise ValueError(
            f"images: expected {INPUTS[dims]} with {', '.join([axes[0], *axes[2:]])} = {wanted}, as the maps; got "
            f"{tuple(images.shape)}"
        )
    if images.device != maps.device:
        raise ValueError(f"images: expected device '{maps.device}', as the maps; got '{images.device}'")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images: expected uint8 or a floating dtype; got {images.dtype}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: expected a number in [0, 1]; got {alpha!r}")
