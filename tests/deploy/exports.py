"""Networks that are exported in seconds, and files of them that tests share."""

import torch
from torch import nn

SIZE = 48


class Residual(nn.Module):
    """A convolution with a batch norm, added to what enters it."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(x + self.norm(self.conv(x)))


def network(classes=6, seed=0):
    """Images of 48 x 48 to activations of 24 x 12 x 12 and 40 x 6 x 6; batch norms have statistics of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [
            *(nn.Conv2d(3, 24, 3, stride=4, padding=1), nn.BatchNorm2d(24), nn.ReLU(inplace=True)),
            *(Residual(24), nn.Conv2d(24, 40, 3, stride=2, padding=1), nn.BatchNorm2d(40), nn.ReLU6(), Residual(40)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, classes)),
        ]
        model = nn.Sequential(*parts)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        return model.eval()


def images(count, seed=0, size=SIZE):
    """(count, 3, size, size) smooth noise, in which channels see different things."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    return nn.functional.interpolate(coarse, (size, size), mode="bicubic") * 2
