"""The maps of a batch and what follows from them alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn

from ..core.axes import INPUTS, last_axes
from ..core.config import Config
from ..core.maps import Inside, upsample
from ..hooks.capture import Captured
from ..hooks.target_layer import TargetLayer
from ..targets.request import Request, Score
from . import overlays


class Origin(NamedTuple):
    """What it takes, beside the result, to look at the same images again: the model, the callables, the images' dtype.

    ``capture`` reads the activations and gradients of images (B, ...) for a request, as they were read before; None
    where several looks or layers were made one map of, or attention. ``explain`` explains images as the explainer that
    was called does; None where there was none, as of a CUDA graph.
    """

    model: nn.Module
    scores: tuple[Score | tuple[Score, ...], ...] | None
    dtype: torch.dtype
    capture: Callable[[torch.Tensor, Request], Captured] | None
    explain: Callable[[torch.Tensor, Request], Record] | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """The fields of an :class:`cfcam_gpu.Explanation`, whose docstring has them, and what follows from them alone."""

    raw_maps: torch.Tensor
    target: torch.Tensor | None
    logits: torch.Tensor | None
    labels: torch.Tensor | None
    weights: torch.Tensor | None
    eps: torch.Tensor | None
    layers: tuple[TargetLayer, ...]
    config: Config | None
    size: tuple[int, ...]
    origin: Origin | None = field(default=None, repr=False)
    method: str = "cfcam"
    inside: Inside | None = None

    @cached_property
    def maps(self) -> torch.Tensor:
        """(B, H, W) float32 in [0, 1] at the images' size; higher is more evidence for the target."""
        saturation = None if self.config is None else self.config.saturation
        return upsample(self.raw_maps, self.size, saturation=saturation, inside=self.inside)

    @cached_property
    def empty(self) -> torch.Tensor:
        """(B,) bool: no position speaks for the target, so the map is all zeros."""
        return self.raw_maps.amax(dim=last_axes(len(self.size))) <= 0

    def arranged(self, images: torch.Tensor) -> torch.Tensor:
        """Images like those explained as (B, C, H, W), where a model has them otherwise: a view."""
        layout = self.layers[0].layout if self.layers else None
        axes = None if layout is None else layout.axes
        if axes is None or not isinstance(images, torch.Tensor) or images.ndim != len(axes) + 2:
            return images
        return images.movedim(axes, tuple(range(2, images.ndim)))  # the axis that is left is the channels'

    @property
    def several(self) -> bool:
        """Whether there is a T axis: several targets of each image."""
        return self.raw_maps.ndim == len(self.size) + 2

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: all but the model, and the layers' modules, whose weights would go along."""
        return vars(self) | {"origin": None, "layers": tuple(replace(layer, module=None) for layer in self.layers)}

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.raw_maps)

    def __repr__(self) -> str:
        """What and where, in one line; values would fill the screen, and wait for the device."""
        raw = tuple(self.raw_maps.shape)
        maps = raw[: len(raw) - len(self.size)] + tuple(self.size)
        layers = ", ".join(layer.name for layer in self.layers)
        return f"<{type(self).__name__} by {self.method} at {layers}: maps {maps} of {raw}, on {self.raw_maps.device}>"

    def overlay(self, images: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
        """The maps in colour over their images, (B, H, W, 3) uint8. See :func:`cfcam_gpu.results.overlay`.

        Of volumes a picture for each slice, (B, D, H, W, 3); of signals a drawing of each.

        Raises
        ------
        TypeError, ValueError
            If `images` have other axes than those explained, or as for :func:`cfcam_gpu.results.overlay`.
        """
        images = self.arranged(images)
        if isinstance(images, torch.Tensor) and images.ndim != len(self.size) + 2:
            raise ValueError(
                f"images: expected {INPUTS[len(self.size)]}, as those explained; got {tuple(images.shape)}"
            )
        return overlays.overlay(self.maps, images, alpha=alpha, colormap=colormap)
