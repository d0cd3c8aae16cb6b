"""Target layers: by module, by name, and automatically."""

import copy

import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu.hooks import layers

from ..networks import lite0, photographs


def net(*modules):
    return nn.Sequential(*modules).eval()


def test_by_module_name_and_input():
    model = net(nn.Conv2d(3, 4, 3), net(nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    assert layers.find(model, model[1][0]).name == "1.0"
    assert layers.find(model, "1.0").module is model[1][0]
    assert not layers.find(model, "1.0").takes_input
    pooled = layers.find(model, "1.1.input")
    assert pooled.module is model[1][1]
    assert pooled.takes_input


def test_a_module_that_is_called_input_means_itself():
    model = nn.Sequential()
    model.add_module("block", nn.Sequential())
    model.block.add_module("input", nn.Conv2d(3, 4, 3))
    assert not layers.find(model, "block.input").takes_input
    assert not layers.find(model, model.block.input).takes_input
    assert layers.find(model, "block.input.input").takes_input


def test_a_layer_that_is_not_there_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"no layer '_conv_heat'; nearest: .*_conv_head"):
        cfcam_gpu.CFCAM(lite0(), "_conv_heat")
    with pytest.raises(ValueError, match="the ReLU that was given is not a module of the model"):
        cfcam_gpu.CFCAM(lite0(), nn.ReLU())
    for wrong in (3, [3], ("_conv_head", None)):
        with pytest.raises(TypeError, match="target_layer: expected a module, a dotted name or None; got"):
            cfcam_gpu.CFCAM(lite0(), wrong)


def test_a_layer_that_was_found_in_another_model_is_refused():
    model = net(nn.Conv2d(3, 4, 3), nn.ReLU())
    found = layers.find(model, "1")
    assert layers.find(model, found) is found
    with pytest.raises(ValueError, match="target_layer: 1 was found in another model"):
        cfcam_gpu.CAM(copy.deepcopy(model), found)


def test_automatic_is_what_enters_the_pooling_where_the_last_activation_module_runs_often():
    explain = cfcam_gpu.CFCAM(lite0(), config=cfcam_gpu.Config())
    assert explain.layers is None
    result = explain(photographs()[1][:1] * 2 - 1)
    (layer,) = result.layers
    assert layer.name == "_avg_pooling.input"
    assert "1280 x 7 x 7, enters it" in layer.reason
    assert explain.layers is result.layers


class Functional(nn.Module):
    """Pools without a module, as MobileNetV2 and DenseNet do."""

    def __init__(self):
        super().__init__()
        self.features = net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(4, 2)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class TwiceActivated(Functional):
    """The last activation leaves a module that runs twice and enters none."""

    def forward(self, x):
        relu = self.features[2]
        return self.classifier(relu(self.features[1](relu(self.features[0](x)))).mean((2, 3)))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.Linear(8, 8)

    def forward(self, x):
        return self.block(self.patch(x).flatten(2).transpose(1, 2)[:, :3]).mean(1)


def test_automatic_is_the_outermost_module_that_returns_the_last_activation():
    chosen = layers.choose(Functional().eval(), torch.randn(1, 3, 8, 8))
    assert (chosen.name, chosen.takes_input) == ("features", False)
    assert "returns the last spatial activation, 4 x 6 x 6" in chosen.reason


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (net(nn.Flatten(), nn.Linear(192, 2)), None),
        (net(nn.AdaptiveAvgPool2d(1), nn.Flatten()), None),
        (TwiceActivated().eval(), r"runs more than once \(features\.2\); name the layer to use, such as 'features\.1'"),
        (Tokens().eval(), r"works on others.*block gives 3 tokens for an image of \(8, 8\), and no grid fits"),
    ],
)
def test_automatic_says_when_it_cannot_choose(model, message):
    images = torch.randn(1, 3, 8, 8)
    if message is None:
        # What enters the first module is the image itself: an explanation of it is possible, and named as such.
        assert layers.choose(model, images).name == "0.input"
    else:
        with pytest.raises(ValueError, match=f"target_layer: .*{message}"):
            layers.choose(model, images)


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ([nn.Conv2d(6, 2, 1)], "1"),  # what the convolution of the scores enters, not what it makes
        ([nn.Conv2d(6, 2, 1), nn.Upsample(scale_factor=2)], "1"),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(6, 2, 1), nn.Hardtanh()], "2"),  # scores at the images' size
        ([nn.Conv2d(6, 6, 1), nn.ReLU()], "3"),  # features that are returned
    ],
)
def test_automatic_takes_features_and_no_scores_of_positions(end, name):
    model = net(nn.Conv2d(3, 6, 2, 2), nn.ReLU(), *end)
    assert layers.choose(model, torch.randn(1, 3, 8, 8)).name == name


def test_automatic_takes_scores_where_there_is_nothing_else():
    assert layers.choose(net(nn.Conv2d(3, 3, 1)), torch.randn(1, 3, 8, 8)).name == "0"


def test_automatic_leaves_no_hooks_even_when_the_model_fails():
    model = net(nn.Conv2d(3, 4, 3), nn.Linear(1, 1))
    with pytest.raises(RuntimeError):
        layers.choose(model, torch.randn(1, 3, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
