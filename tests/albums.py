"""A few photographs in folders, and a network that is built in no time: enough to see what the command line does."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


def small():
    """A network that is built in no time: 5 classes, random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.fixture
def album(tmp_path):
    """A folder with three photographs: a/x.png, b/x.png, b/y.jpg."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    for name, pixels in zip(["a/x.png", "b/x.png", "b/y.jpg"], noise):
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "album" / name)
    return tmp_path / "album"
