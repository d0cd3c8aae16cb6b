"""The automatic choice of many target layers: all convolutions, or the end of each resolution."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from ..targets.request import Request
from .choice import Choice
from .forward_trace import Activation
from .target_layer import TargetLayer

#: Of each axis of an image, the share that the positions of the finest stage may number: behind a stem.
_FINEST = 1 / 4


def convolutions(model: nn.Module, images: torch.Tensor, request: Request | None = None) -> tuple[TargetLayer, ...]:
    """All convolutions with a spatial extent that the scores depend on, in the order of a forward of one image.

    One that runs more than once is left out, one that returns the scores of positions, and one whose positions can't be
    told in the image.

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
        As :func:`cfcam_gpu.hooks.layers.choose`, or if there are fewer than two.
    """
    choice = Choice(model, images, request)
    trace = choice.trace
    # Hooks see an inner module's output before the outer one's, so that the first of the names is the convolution's.
    once = [one for one in trace.activations if one.convolved and trace.calls[one.returned_by[0]] == 1]
    found = []
    for one in choice.settled([one for one in once if not trace.gives_scores(one)]):
        name, size = one.returned_by[0], " x ".join(map(str, one.shape[1:]))
        found.append(TargetLayer(trace.named[name], name, reason=f"a convolution, {size}", layout=one.layout))
    return _several(found, "convolutions with more than one position that run once")


def stage_ends(model: nn.Module, images: torch.Tensor, request: Request | None = None) -> tuple[TargetLayer, ...]:
    """The last activation of each resolution that the scores depend on, the finest first: ResNet's layer1 to layer4.

    The coarsest is that of :func:`cfcam_gpu.hooks.layers.choose`. Of each other resolution, what is hardly negative
    (behind a ReLU or its like) is taken before what is not. Resolutions beyond a quarter of the image's are a stem's;
    they are taken where there are fewer than two without them.

    Parameters
    ----------
    model, images, request
        As for :func:`convolutions`.

    Raises
    ------
    ValueError
        As :func:`cfcam_gpu.hooks.layers.choose`, or if there are fewer than two resolutions.
    """
    choice = Choice(model, images, request)
    ends: dict[tuple[int, ...], Activation] = {}
    of_image = (choice.trace.evidence.entry_shape or choice.trace.images.shape)[1]
    for one in choice.settled(choice.trace.before(choice.last)):
        grid = _grid(one)
        beyond = prod(grid) > prod(_grid(choice.last)) and one.channels != of_image
        if beyond and _kind(one) == _kind(choice.last) and choice.named(one, "") is not None:
            held = ends.get(grid)
            if held is None or one.positive or not held.positive:
                ends[grid] = one
    finest = [_FINEST * side for side in choice.trace.evidence.size]
    behind_stem = [one for grid, one in ends.items() if all(side <= most for side, most in zip(grid, finest))]
    chosen = sorted(behind_stem or ends.values(), key=lambda one: -prod(_grid(one)))
    named = [choice.named(one, "the last activation of its resolution") for one in chosen]
    layers = [layer for layer in named if layer is not None]
    return _several([*layers, choice.layer_of(choice.last)], "activations of several resolutions")


def _several(layers: list[TargetLayer], what: str) -> tuple[TargetLayer, ...]:
    if len(layers) < 2:
        raise ValueError(
            f"target_layer: this method takes all {what}, and finds fewer than two in this model; name the layers to "
            "use, such as the outputs of a transformer's norms, or take a method of one layer"
        )
    return tuple(layers)


def _grid(activation: Activation) -> tuple[int, ...]:
    assert activation.layout is not None
    return activation.layout.grid


def _kind(activation: Activation) -> str:
    assert activation.layout is not None
    return activation.layout.kind
