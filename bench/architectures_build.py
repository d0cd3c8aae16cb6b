"""An architecture to build, by the library that has it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn

from .torchvision_shim import import_torchvision

CLASSES = 6
SEED = 0
#: Of weights, how much of a signal passes them, where 1 is all.
SMALL = 0.5
#: In options, at any depth: the (H, W) of the images, and one side of square ones.
SIZE, SIDE = "<size>", "<side>"


class Architecture(NamedTuple):
    """A model to build, and the images that it is explained for.

    `images` are the shapes of one image, channels and all; of the first, the table tells its layers' shapes. `targets`
    are what is explained: classes, or callables. Where `frames_first`, images are (frames, channels, H, W). `wrap`
    changes the library's model into one that takes such images and nothing else. `calibrated` gives batch norms the
    statistics of random images: with those that they begin with, some deep networks lose what differs between places.
    """

    library: str
    name: str
    options: dict[str, Any] = {}  # noqa: RUF012
    images: Sequence[tuple[int, ...]] = ((3, 96, 160), (3, 128, 128))
    targets: Sequence[int | Callable[[Any], torch.Tensor]] = range(CLASSES)
    frames_first: bool = False
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    calibrated: bool = False

    @property
    def id(self) -> str:
        return f"{self.library}:{self.name}"

    def axes(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """Which axes of an image are the map's: all but the channels."""
        return tuple(axis for axis in range(len(image)) if axis != (1 if self.frames_first else 0))

    @property
    def is_sized(self) -> bool:
        """Whether each shape of images has a model of its own."""
        return _filled(self.options, self.images[0]) != _filled(self.options, self.images[-1])

    def build(self, image: tuple[int, ...]) -> nn.Module:
        """In eval mode, with seeded random weights, of which none keep a signal back or make all places alike."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what libraries deprecate among themselves
            torch.manual_seed(SEED)
            model = self.wrap(BUILDERS[self.library](self.name, _filled(self.options, image))).eval()
            for name, parameter in model.named_parameters():
                if not name.endswith("bias") and not parameter.any():
                    _fill(name, parameter, image)
            for module in model.modules():
                if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                    gain = module.weight.square().mean().sqrt() * module.weight[0].numel() ** 0.5
                    if gain < SMALL:
                        module.weight /= gain
            if self.calibrated:
                norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
                for norm in norms:
                    norm.train().momentum = 1.0
                model(torch.randn(4, *image))
        return model.eval()


def _fill(name: str, parameter: nn.Parameter, image: tuple[int, ...]) -> None:
    """Values for what begins as zeros."""
    if name.endswith("attention_biases"):
        # LeViT's and its followers', by distance; with random ones all tokens of its last stage are alike.
        places = torch.arange(parameter.shape[1])
        width = max(1, round((len(places) * image[-1] / image[-2]) ** 0.5))
        parameter.copy_(-2.0 * (places // width + places % width))
    elif parameter.ndim < 2:
        nn.init.ones_(parameter)  # norms and gates, by which a branch adds nothing before it is trained
    else:
        nn.init.normal_(parameter, std=0.05)  # classifiers, tokens, positions


def _filled(options: Any, image: tuple[int, ...]) -> Any:
    """Options in which `SIZE` and `SIDE` are those of the image."""
    if isinstance(options, dict):
        return {key: _filled(value, image) for key, value in options.items()}
    if isinstance(options, str):
        return {SIZE: image[1:], SIDE: image[-1]}.get(options, options)
    return options


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    family, _, kind = name.rpartition(".")
    module = import_module(f"torchvision.models.{family}" if family else "torchvision.models")
    return getattr(module, kind)(num_classes=CLASSES, **options)


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    return import_module("timm").create_model(name, num_classes=CLASSES, **options)


def _transformers(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    kind = getattr(import_module("transformers"), name)
    return kind(kind.config_class(num_labels=CLASSES, **options))


def _monai(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    return getattr(import_module("monai.networks.nets"), name)(**options)


BUILDERS = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers, "monai": _monai}
