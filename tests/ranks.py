"""A network of signals, images or volumes, and inputs for it."""

import torch
from torch import nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Network(nn.Module):
    """Two scales; the same seed gives the same weights."""

    def __init__(self, spatial_dims, channels=2, stride=2):
        super().__init__()
        torch.manual_seed(0)
        convolution = CONVOLUTIONS[spatial_dims]
        self.early = nn.Sequential(
            convolution(channels, 16, 3, padding=1), NORMS[spatial_dims](16), nn.ReLU(inplace=True)
        )
        self.late = nn.Sequential(convolution(16, 24, 3, stride=stride, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.late(self.early(x)).flatten(2).mean(dim=2))


def network(spatial_dims, **options):
    return Network(spatial_dims, **options).eval()


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))
