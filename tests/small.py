"""A small network of two scales, its configurations, and what two explanations have in common."""

import torch
from torch import nn

from cfcam_gpu import Config

CLASSES = 5
CONFIGS = {"default": Config(), "paper": Config.paper(), "two-level": Config.two_level(), "gated": Config.gated()}
LAYERS = {"default": "late", "paper": "late", "two-level": ("early", "late"), "gated": "late"}


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIZES = {1: (31,), 2: (12, 10), 3: (7, 8, 9)}


class Network(nn.Module):
    def __init__(self, dims=2):
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = CONVOLUTIONS[dims], NORMS[dims]
        self.early = nn.Sequential(convolution(3, 24, 3, padding=1), norm(24), nn.ReLU(inplace=True))
        self.late = nn.Sequential(convolution(24, 32, 3, stride=2), nn.ReLU(inplace=True))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images):
        return self.head(self.late(self.early(images)).mean(dim=tuple(range(2, images.ndim))))


def draw(seed, *, batch=3, dims=2):
    return torch.randn(batch, 3, *SIZES[dims], generator=torch.Generator().manual_seed(seed))


def assert_same(found, expected, *, but=()):
    for name in ("raw_maps", "maps", "target", "logits", "labels", "weights", "eps", "empty"):
        if name not in but:
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
