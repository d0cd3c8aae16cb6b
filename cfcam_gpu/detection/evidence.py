"""What one detection's score sees in one layer: the part of the layer that it depends on, and the gradients there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core.maps import Inside


@dataclass(frozen=True, eq=False)
class Evidence:
    """A window of a layer's activations, and the gradients of one detection's score with respect to it.

    Outside of the window the gradients are zero.

    Parameters
    ----------
    layer : str
        The layer's name.
    activations, gradients : (C, h, w) tensors
    grid : (int, int)
        Height and width of the whole layer.
    corner : (int, int)
        Row and column of the layer where the window begins.
    inside : tuple of (float, float), optional
        The part of the grid that the image takes; see :class:`cfcam_gpu.Explanation`.
    """

    layer: str
    activations: torch.Tensor
    gradients: torch.Tensor
    grid: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    inside: Inside | None = None


def active(of_detections: Sequence[Sequence[Evidence]]) -> list[list[bool]]:
    """Of each detection's layers whether they have a part in its score; the host waits once for all."""
    flags = [one.gradients.any() for seen in of_detections for one in seen]
    known = iter(torch.stack(flags).tolist() if flags else [])
    return [[next(known) for _ in seen] for seen in of_detections]
