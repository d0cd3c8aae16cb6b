"""TorchScript inside a model takes no hooks: other layers are explained, or it is named."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.hooks import layers

from ..transformers import pictures, transformer
from ..transformers_small import VisionTransformer
from .test_places import SIZE, images, net, stem

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def scripted(model, place):
    """The model with TorchScript in the place of one of its modules."""
    model.set_submodule(place, torch.jit.script(model.get_submodule(place)))
    return model


def cnn():
    """A norm, two stages and a head."""

    def made():
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
        return nn.Sequential(nn.BatchNorm2d(3), stem(), nn.Sequential(nn.Conv2d(12, 12, 1), nn.ReLU()), *head)

    return net(made)


@pytest.mark.parametrize(("place", "name"), [("1", "2"), ("2", "3.input")])
def test_a_cnn_is_explained_at_another_layer(place, name):
    given = images(2, 3, *SIZE)
    expected = CAM(cnn(), name)(given, 1)
    found = CAM(scripted(cnn(), place))(given, 1)
    assert [layer.name for layer in found.layers] == [name]
    torch.testing.assert_close(found.maps, expected.maps)
    assert CFCAM(scripted(cnn(), place))(given, 1).layers[-1].name == name


@pytest.mark.parametrize("method", ["gradcam", "legrad", "scorecam", "ablationcam"])
def test_a_transformer_is_explained_as_without_it(method):
    given = pictures()
    expected = CAM(transformer("plain"), method=method)(given, 1)
    found = CAM(scripted(transformer("plain"), "blocks.1.mlp"), method=method)(given, 1)
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    torch.testing.assert_close(found.raw_maps, expected.raw_maps, rtol=1e-4, atol=1e-6)


def test_where_nothing_else_is_left_it_is_refused_by_name():
    given = images(2, 3, *SIZE)
    with pytest.raises(ValueError, match=r"^target_layer: 1\.0 is TorchScript.*name a layer before or behind it"):
        CAM(scripted(cnn(), "1"), "1.0")(given)
    body = nn.Sequential(nn.BatchNorm2d(3), cnn()).eval()
    with pytest.raises(ValueError, match=r"nothing but the image is left.*; 1: TorchScript, which takes no hooks"):
        layers.choose(scripted(body, "1"), given)
    with pytest.raises(ValueError, match=r"^target_layer: no layer of this model .*; 0: TorchScript"):
        layers.choose(scripted(nn.Sequential(cnn()), "0"), given)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("blocks.1", r"needs all blocks as modules; blocks\.1: TorchScript"),
        ("blocks", r"needs the self-attention of a transformer; no tokens .*; blocks: TorchScript"),
    ],
)
def test_legrad_refuses_blocks_that_it_can_t_see(place, message):
    with pytest.raises(ValueError, match=f"method: legrad {message}"):
        CAM(scripted(VisionTransformer(depth=2), place), method="legrad")(pictures())
