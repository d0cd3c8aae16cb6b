"""The layers that methods of many take where none are named."""

import pytest
import torch
from torch import nn

from cfcam_gpu import targets
from cfcam_gpu.hooks.many_layers import convolutions, stage_ends

from ..cams import Densely, made
from ..transformers import pictures, transformer


def stage(channels, wider):
    return nn.Sequential(
        nn.Conv2d(channels, wider, 3, stride=2, padding=1),
        nn.BatchNorm2d(wider),
        nn.ReLU(),
        nn.Conv2d(wider, wider, 3, padding=1),
        nn.BatchNorm2d(wider),
        nn.ReLU(inplace=True),
    )


class Staged(nn.Module):
    """A stem, stages, a convolution that runs twice and one beside the way; squeezed channels have one position."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        self.one, self.two, self.three = stage(4, 6), stage(6, 8), stage(8, 8)
        self.twice, self.squeeze, self.aside = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(4, 2, 1)
        self.last, self.head = nn.ReLU(), nn.Linear(8, 5)

    def forward(self, images):
        stem = self.stem(images)
        self.aside(stem)
        features = self.three(self.two(self.one(stem)))
        features = features + self.twice(self.twice(features).relu())
        features = self.last(features) * self.squeeze(features.mean(dim=(2, 3), keepdim=True)).sigmoid()
        return self.head(features.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def staged():
    torch.manual_seed(0)
    return Staged().eval()


def names(found):
    return [layer.name for layer in found]


def test_all_convolutions_with_a_spatial_extent_that_run_once_and_count(staged):
    found = convolutions(staged, torch.randn(2, 3, 64, 48), targets.read(1, 2))
    stages = [f"{name}.{i}" for name in ("one", "two", "three") for i in (0, 3)]
    assert names(found) == ["stem.0", *stages]
    assert all(isinstance(layer.module, nn.Conv2d) for layer in found)
    assert "a convolution, 4 x 32 x 24" in found[0].reason


def test_the_scores_of_positions_are_no_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert names(convolutions(model, torch.randn(1, 3, 12, 12), targets.read(targets.Segment(1), 1))) == ["0", "2"]


def test_the_end_of_each_resolution_behind_the_stem(staged):
    found = stage_ends(staged, torch.randn(2, 3, 64, 48), targets.read(1, 2))
    assert names(found) == ["one", "two", "last"]
    assert [layer.layout.grid for layer in found] == [(16, 12), (8, 6), (4, 3)]


def test_a_stem_is_taken_where_there_is_little_else(staged):
    short = nn.Sequential(staged.stem, staged.one, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    assert names(stage_ends(short, torch.randn(1, 3, 64, 48))) == ["0", "1"]
    assert names(stage_ends(made(Densely()), torch.randn(1, 3, 8, 6))) == ["act", "act2"]


@pytest.mark.parametrize("choose", [convolutions, stage_ends])
def test_a_network_of_one_resolution_and_one_convolution_is_refused(choose):
    with pytest.raises(ValueError, match=r"target_layer: this method takes all .* finds fewer than two"):
        choose(transformer(), pictures())
