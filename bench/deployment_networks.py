"""Networks that exported files are checked on: six families of image networks, a volume's, a signal's, a segmentation.

All but EfficientNet-Lite0 have seeded random weights: what an export has to get right is arithmetic, not sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cfcam_gpu.targets import Segment

from . import models
from .scaling import network_of_signals
from .torchvision_shim import import_torchvision

SEED = 0
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Exported:
    """A network, and what is exported of it.

    Parameters
    ----------
    family : str
    build : callable
        Returns it, in eval mode.
    shape : tuple of int
        Of one of its inputs; (3, H, W) are photographs, all else noise.
    options : dict
        Of :func:`cfcam_gpu.deploy.export`.
    """

    family: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 224, 224)
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self, count: int) -> torch.Tensor:
        """(count, *shape) float32."""
        if len(self.shape) == 3:
            return models.photographs(count, IMAGENET, size=self.shape[-1])
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(SEED))


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of timm, built when it is called."""

    def build() -> nn.Module:
        import_torchvision()
        import timm

        return _seeded(lambda: timm.create_model(name, **options))

    return build


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of torchvision, built when it is called."""

    def build() -> nn.Module:
        import_torchvision()
        from torchvision.models import get_model

        return _seeded(lambda: get_model(name, weights=None, weights_backbone=None, **options))

    return build


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build().eval()


def segmentation() -> nn.Module:
    """LR-ASPP, with its classes' logits about 0 each: with random weights one class would be predicted everywhere."""
    model = torchvision("lraspp_mobilenet_v3_large", num_classes=21)()
    with torch.no_grad():
        means = model(models.photographs(4, IMAGENET))["out"].mean(dim=(0, 2, 3))
        model.get_submodule("classifier.high_classifier").bias -= means
    return model


def densenet_of_volumes() -> nn.Module:
    """MONAI's DenseNet-121 in three dimensions."""
    from monai.networks.nets import DenseNet121

    return _seeded(lambda: DenseNet121(spatial_dims=3, in_channels=1, out_channels=3))


#: By name. The layers are those that the library chooses.
NETWORKS = {
    "EfficientNet-Lite0": Exported("inverted residuals", models.lite0),
    "MobileNetV3": Exported("inverted residuals", timm("mobilenetv3_small_100")),
    "ResNet-50": Exported("residuals", models.resnet50),
    "ResNet-18": Exported("residuals", timm("resnet18")),
    "RegNet": Exported("residuals", timm("regnety_002")),
    "VGG-11": Exported("plain convolutions", timm("vgg11_bn")),
    "ConvNeXt": Exported("modern convolutions", timm("convnext_atto")),
    "ViT": Exported("transformers", timm("vit_tiny_patch16_224")),
    "Swin": Exported("windowed transformers", timm("swin_tiny_patch4_window7_224")),
    "DenseNet-121 of volumes": Exported("dense connections", densenet_of_volumes, (1, 64, 64, 64)),
    "convolutions over signals": Exported("signals", network_of_signals, (1, 10_000)),
    "LR-ASPP": Exported("segmentation", segmentation, options={"target": Segment(4)}),
}
