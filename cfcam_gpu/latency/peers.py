"""Grad-CAM by other libraries, as their documentation shows it, where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..hooks.target_layer import TargetLayer
from .timing import Call


@dataclass(frozen=True)
class Peer:
    """A library: its `package` as pip names it, its `module` as Python does, and what makes a call of it.

    ``make`` gets a model of its own, into which it may hook what it wants, and the dotted name of a module, whose
    output is explained; the call returns maps at the images' size, of the predicted classes.
    """

    package: str
    module: str
    make: Callable[[nn.Module, str], Call]

    @property
    def installed(self) -> bool:
        """Whether it is, without importing it."""
        return find_spec(self.module) is not None


def pytorch_grad_cam(model: nn.Module, module: str) -> Call:
    """Images to normalised maps at the images' size, of the predicted classes."""
    from pytorch_grad_cam import GradCAM

    cam = GradCAM(model=model, target_layers=[model.get_submodule(module)])
    return lambda images: cam(input_tensor=images, targets=None)


def torch_cam(model: nn.Module, module: str) -> Call:
    """Its maps come at the layer's resolution and are resized here."""
    from torchcam.methods import GradCAM

    cam = GradCAM(model, module)

    def call(images: torch.Tensor) -> Any:
        scores = model(images)
        (maps,) = cam(scores.argmax(dim=1).tolist(), scores)
        return nn.functional.interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]

    return call


def captum(model: nn.Module, module: str) -> Call:
    """It is told the classes, which takes a forward; its maps come at the layer's resolution and are resized."""
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(model, model.get_submodule(module))

    def call(images: torch.Tensor) -> Any:
        with torch.no_grad():
            classes = model(images).argmax(dim=1)
        maps = cam.attribute(images, target=classes, relu_attributions=True)
        return LayerAttribution.interpolate(maps, tuple(images.shape[-2:]), interpolate_mode="bilinear")

    return call


#: By the name that tables have.
PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "pytorch-grad-cam": Peer("grad-cam", "pytorch_grad_cam", pytorch_grad_cam),
        "torch-cam": Peer("torchcam", "torchcam", torch_cam),
        "captum": Peer("captum", "captum", captum),
    }
)


def why_not(layer: TargetLayer) -> str | None:
    """Why the peers can't explain a layer, or None: they hook what a module returns, each time it runs."""
    if layer.takes_input:
        return f"the peers hook what a module returns, and {layer.name} is what enters one; --layer names another"
    if layer.run is not None:
        return f"the peers hook every run of a module, and {layer.name} is one of several; --layer names another"
    return None
