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
from ..hooks.target_layer import TargetLayer, in_words
from ..targets.outputs import probabilities
from ..targets.request import Request, Score
from . import overlays
from .seen import Seen


class Origin(NamedTuple):
    """What it takes, beside the result, to look at the same images again: the model, the callables, the images' dtype.

    ``capture`` reads the activations and gradients of images (B, ...) for a request, as they were read before; None
    where several looks or layers were made one map of, or attention. ``explain`` explains images as the explainer that
    was called does; None where there was none, as of a CUDA graph. ``noisy`` says that noise was drawn for all images
    together.
    """

    model: nn.Module
    scores: tuple[Score | tuple[Score, ...], ...] | None
    dtype: torch.dtype
    capture: Callable[[torch.Tensor, Request], Captured] | None
    explain: Callable[[torch.Tensor, Request], Record] | None = None
    noisy: bool = False


@dataclass(frozen=True, eq=False)
class Record:
    """The fields of an :class:`cfcam_gpu.Explanation`, whose docstring has them, and what follows from them alone.

    Two are not for users: ``called``, B tuples of what the callables are called that are explained, or None where
    classes are; and ``seen``, by which a notebook finds the images. Pickles and copies go without the latter.
    """

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
    class_names: tuple[str, ...] | None = None
    called: tuple[tuple[str, ...], ...] | None = None
    seen: Seen | None = field(default=None, repr=False)

    @cached_property
    def maps(self) -> torch.Tensor:
        """(B, H, W) float32 in [0, 1] at the images' size; higher is more evidence for the target."""
        saturation = None if self.config is None else self.config.saturation
        return upsample(self.raw_maps, self.size, saturation=saturation, inside=self.inside)

    @cached_property
    def empty(self) -> torch.Tensor:
        """(B,) bool: no position speaks for the target, so the map is all zeros."""
        return self.raw_maps.amax(dim=last_axes(len(self.size))) <= 0

    @property
    def classes(self) -> list[str] | list[list[str]]:
        """What is explained of each image, as text: B str, or B lists of T of them.

        A class is its name, ``"class 5"`` where none is known, and a callable what it is called. To read the classes
        waits for the device.
        """
        texts = self._texts(len(self))
        return texts if self.several else [row[0] for row in texts]

    def probabilities_of(self, logits: torch.Tensor) -> torch.Tensor:
        """The probabilities of the classes from logits (N, K) of this model's: (N, K) float32, NaN where K is 1."""
        return probabilities(logits)

    @property
    def probability(self) -> torch.Tensor:
        """(B,) float32, or (B, T): the softmax of the explained class among all; NaN where there is none.

        There is none of callables, of logits that are not (B, K), and of a single class.
        """
        shape = self.raw_maps.shape[: 1 + self.several]
        if self.target is None or self.logits is None or self.logits.ndim != 2:
            return self.raw_maps.new_full(shape, torch.nan)
        rows = self.target.reshape(len(self), self.per_image)
        return self.probabilities_of(self.logits.detach()).gather(1, rows).reshape(shape)

    def name_of(self, index: int) -> str:
        """The name of a class, ``"class 5"`` where none is known."""
        return f"class {index}" if self.class_names is None else self.class_names[index]

    def _texts(self, count: int) -> list[list[str]]:
        """What is explained of the first `count` images, a list for each."""
        if self.target is not None:
            return [list(map(self.name_of, row)) for row in self.target[:count].reshape(count, self.per_image).tolist()]
        if self.called is None:
            return [["callable"] * self.per_image] * count
        return [list(row) for row in self.called[:count]]

    @property
    def several(self) -> bool:
        """Whether there is a T axis: several targets of each image."""
        return self.raw_maps.ndim == len(self.size) + 2

    @property
    def per_image(self) -> int:
        """How many maps an image has: T of several targets, else 1."""
        return self.raw_maps.shape[1] if self.several else 1

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: all but the model, and the layers' modules, whose weights would go along."""
        layers = tuple(replace(layer, module=None) for layer in self.layers)
        return vars(self) | {"origin": None, "seen": None, "layers": layers}

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.raw_maps)

    def __repr__(self) -> str:
        """What and where, in one line; what of the first image, too, where that waits for no device."""
        raw = tuple(self.raw_maps.shape)
        maps = raw[: len(raw) - len(self.size)] + tuple(self.size)
        layers = in_words(self.layers)
        device, first = self.raw_maps.device, ""
        if len(self) and (self.target is None or self.target.device.type == "cpu"):
            first = f" for {', '.join(self._texts(1)[0]):.60}{', ...' * (len(self) > 1)}"
        return f"<{type(self).__name__} by {self.method} at {layers}{first}: maps {maps} of {raw}, on {device}>"

    def overlay(self, images: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
        """The maps in colour over their images, (B, H, W, 3) uint8. See :func:`cfcam_gpu.results.overlay`.

        Of volumes a picture for each slice, (B, D, H, W, 3); of signals a drawing of each.

        Raises
        ------
        TypeError, ValueError
            If `images` have other axes than those explained, or as for :func:`cfcam_gpu.results.overlay`.
        """
        return overlays.overlay(self.maps, with_axes(self, images), alpha=alpha, colormap=colormap)


def arranged(explanation: Record, images: torch.Tensor) -> torch.Tensor:
    """Images like those explained as (B, C, H, W), where a model has them otherwise: a view."""
    layout = explanation.layers[0].layout if explanation.layers else None
    axes = None if layout is None else layout.axes
    if axes is None or not isinstance(images, torch.Tensor) or images.ndim != len(axes) + 2:
        return images
    return images.movedim(axes, tuple(range(2, images.ndim)))  # the axis that is left is the channels'


def with_axes(explanation: Record, images: torch.Tensor) -> torch.Tensor:
    """:func:`arranged`, for images that have the axes of those explained.

    Raises
    ------
    ValueError
    """
    size, images = explanation.size, arranged(explanation, images)
    if isinstance(images, torch.Tensor) and images.ndim != len(size) + 2:
        raise ValueError(f"images: expected {INPUTS[len(size)]}, as those explained; got {tuple(images.shape)}")
    return images
