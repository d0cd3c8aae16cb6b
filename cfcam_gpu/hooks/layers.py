"""Target layers: found by module, by dotted name, or automatically."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..targets.request import Request
from .choice import Choice
from .laying_out import laid_out
from .target_layer import Layer, TargetLayer, are_tokens_of_one_grid, find

__all__ = ["Candidate", "Layer", "TargetLayer", "candidates", "choose", "choose_two", "find", "laid_out"]


@dataclass(frozen=True)
class Candidate:
    """An activation that can be explained.

    Parameters
    ----------
    layer : TargetLayer
    shape : tuple of int
        Of the layer's own tensor for one image, without the batch.
    channels : int
    chosen : bool
        Whether CF-CAM takes it where no layer is named; `layer.reason` then says why.
    """

    layer: TargetLayer
    shape: tuple[int, ...]
    channels: int
    chosen: bool = False


def choose(model: nn.Module, images: torch.Tensor, request: Request | None = None) -> TargetLayer:
    """The last activation with a grid that the scores depend on, seen in a forward of one image.

    It is named by the outermost module that returns it, or, where that module runs more than once, by the module that
    it enters: what enters a global pooling is often the output of a ReLU that serves the whole network. The scores of
    positions that a segmentation ends with are passed over. What a batch norm makes of an activation that is hardly
    negative is passed over for that activation. Where a head reads nothing of it but class tokens, the gradient of its
    patches is zero, and the last output of a norm is taken whose patches have one: what enters the last attention.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used, or all where the model takes no other number.
    request : Request, optional
        What is explained; None is the predicted class.

    Raises
    ------
    ValueError
        If there is no such activation, no unambiguous name for it, or if tokens without a known grid follow it.
    """
    choice = Choice(model, images, request)
    return choice.layer_of(choice.last)


def choose_two(model: nn.Module, images: torch.Tensor, request: Request | None = None) -> tuple[TargetLayer, ...]:
    """A fine and a coarse target layer, seen in a forward of one image.

    The coarse one is that of :func:`choose`, and it depends on the fine one, which has about twice its resolution;
    of several, one that is hardly negative (behind a ReLU or its like) comes before others, then the one with the
    shortest dotted name, which is a stage's output before a block's inner layer, then the last: ResNet's layer3,
    what enters EfficientNet-Lite's last depthwise convolution of stride 2. Of tokens and channels-last activations
    it is the last before the merging of patches. Where none has twice the resolution, as in a model of one scale,
    the fine one is of the same resolution, the last but one of its kind before the coarse one (docs/method.md has
    what that gains); of tokens, the kind is that of the norms that have the coarse one's place in their block.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
    request : Request, optional
        As for :func:`choose`.

    Returns
    -------
    tuple of TargetLayer
        (fine, coarse), or (coarse,) where there are not two layers before it to choose from.

    Raises
    ------
    ValueError
        As :func:`choose`.
    """
    return Choice(model, images, request).two()


def candidates(model: nn.Module, images: torch.Tensor) -> list[Candidate]:
    """Every activation that can be a target layer, in the model's order, seen in a forward of one image.

    Each is there once, under the name by which :func:`choose` would call it. Marked are those that CF-CAM takes: what
    :func:`choose_two` does, and of tokens that have one grid throughout the last layer alone.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used.

    Raises
    ------
    ValueError
        As :func:`choose`.
    """
    choice = Choice(model, images, None)
    two = laid_out(model, images, choice.two())
    chosen = {layer.name: layer for layer in (two[-1:] if are_tokens_of_one_grid(two) else two)}
    by_name = {}
    for activation in choice.settled(choice.trace.activations):
        layer = choice.named(activation, "an activation")
        if layer is not None:
            is_chosen = layer.name in chosen
            layer = chosen.get(layer.name, layer)
            by_name[layer.name] = Candidate(layer, activation.shape[1:], activation.channels, is_chosen)
    return list(by_name.values())
