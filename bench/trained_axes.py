"""Trained networks of volumes and signals that package indexes bring, and what they are measured on.

``bench/trained_networks.py`` has how to get them.
"""

from __future__ import annotations

import math
from importlib import import_module
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .trained_images import package_folder

#: Of the copies of the brain: how many, and how far they are turned (radians), made smaller or larger, and moved
#: (shares of half the volume).
COPIES, ANGLE, ZOOM, SHIFT = 8, 0.25, 0.1, 0.1
#: Signals, and the pitches that their tones are drawn from, Hz.
SIGNALS, LOWEST, HIGHEST = 48, 110.0, 880.0
#: Standard deviation of the noise, where the tone's is about 1.
NOISE = 0.05
RATE, SAMPLES = 16000, 1024


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


def linknet3d() -> LinkNet3d:
    """A segmentation of the brain in MRI, from deepbet: class 1 is the brain."""
    model = LinkNet3d()
    path = package_folder("deepbet").parent / "data" / "models" / "bbox_model.pt"
    model.load_state_dict(torch.jit.load(path, map_location="cpu").state_dict())
    return model.eval()


def prepared_volumes(shown: torch.Tensor) -> torch.Tensor:
    """Volumes (B, 1, D, H, W) in [0, 1] as deepbet's network takes them."""
    mean, deviation = shown.mean(dim=(1, 2, 3, 4), keepdim=True), shown.std(dim=(1, 2, 3, 4), keepdim=True)
    return 0.226 * (shown - mean) / deviation + 0.449


def brains(copies: int = COPIES, side: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1, S, S, S) in [0, 1] and the brain in each, bool: MNI152's T1, its skull stripped, and copies of it.

    The first is as it is; the others are turned, scaled and moved, always the same ways. That it is one brain is what
    an interval over them does not know.
    """
    path = package_folder("nilearn") / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    voxels = torch.from_numpy(import_module("nibabel").load(path).get_fdata(dtype=np.float32))[None, None]
    brain = (voxels > 0).float()  # all around it is 0
    generator = torch.Generator().manual_seed(0)
    draws = 2 * torch.rand(copies, 7, generator=generator) - 1
    draws[0] = 0.0
    ways = torch.stack([_way(*draw.tolist()) for draw in draws])
    grid = functional.affine_grid(ways, [copies, 1, side, side, side], align_corners=False)
    shown = functional.grid_sample(voxels.expand(copies, -1, -1, -1, -1), grid, align_corners=False)
    masks = functional.grid_sample(brain.expand(copies, -1, -1, -1, -1), grid, mode="nearest", align_corners=False)
    low, high = (shown[0].flatten()[::8].quantile(share) for share in (0.005, 0.995))  # as deepbet has it
    return ((shown - low) / (high - low)).clamp(0, 1), masks > 0.5


def _way(*draw: float) -> torch.Tensor:
    """(3, 4) of turns about three axes, a scale and three shifts, each drawn in [-1, 1]."""
    turned = torch.eye(3)
    for axis, angle in enumerate(draw[:3]):
        first, second = (one for one in range(3) if one != axis)
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = math.cos(ANGLE * angle)
        turn[first, second], turn[second, first] = -math.sin(ANGLE * angle), math.sin(ANGLE * angle)
        turned = turned @ turn
    return torch.cat([(1 + ZOOM * draw[3]) * turned, SHIFT * torch.tensor(draw[4:])[:, None]], dim=1)


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


def crepe() -> Crepe:
    """Pitch of a signal, from torchcrepe, its small network."""
    weights = torch.load(package_folder("torchcrepe") / "assets" / "tiny.pth", map_location="cpu", weights_only=True)
    model = Crepe()
    renamed = {}
    for name, tensor in weights.items():
        owner, _, own = name.rpartition(".")
        if owner != "classifier":
            owner = f"layers.{int(owner[4]) - 1}.{3 if owner.endswith('BN') else 1}"
        renamed[f"{owner}.{own}"] = tensor.squeeze(-1) if tensor.ndim == 4 else tensor
    model.load_state_dict(renamed)
    return model.eval()


def bin_of(pitch: torch.Tensor) -> torch.Tensor:
    """CREPE's bin of a pitch in Hz: 20 cents each, from 1997.3794084376191 cents over 10 Hz."""
    return ((1200 * (pitch / 10).log2() - 1997.3794084376191) / 20).round().long()


def tones(signals: int = SIGNALS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Signals (B, 1, 1024) of a tone in noise, where in each the tone is (B, 1024), bool, and its bin (B,).

    A half of each has a tone with three overtones, the rest noise alone. Where it begins and the pitch are drawn,
    always the same. A signal is prepared as torchcrepe has it.
    """
    generator = torch.Generator().manual_seed(0)
    pitch = LOWEST * (HIGHEST / LOWEST) ** torch.rand(signals, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(signals, 1, generator=generator)
    start = torch.randint(0, SAMPLES // 2 + 1, (signals, 1), generator=generator)
    place = torch.arange(SAMPLES)
    angle = 2 * math.pi * pitch * place / RATE + phase
    tone = torch.stack([torch.sin(overtone * angle) / overtone for overtone in range(1, 5)]).sum(dim=0)
    masks = (place >= start) & (place < start + SAMPLES // 2)
    found = tone * masks + NOISE * torch.randn(signals, SAMPLES, generator=generator)
    found = (found - found.mean(dim=1, keepdim=True)) / found.std(dim=1, keepdim=True)
    return found[:, None], masks, bin_of(pitch[:, 0])
