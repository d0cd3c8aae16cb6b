"""MONAI's networks of volumes and signals, and its own Grad-CAM."""

import copy

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config, targets

from .ranks import noise


@pytest.mark.parametrize(
    ("name", "options", "shape", "expected"),
    [
        ("DenseNet121", {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}, (1, 32, 32, 32), (4, 4, 4)),
        ("DenseNet121", {"spatial_dims": 1, "in_channels": 12, "out_channels": 3}, (12, 256), (16,)),
        ("resnet10", {"spatial_dims": 3, "n_input_channels": 4, "num_classes": 3}, (4, 32, 32, 24), (4, 4, 3)),
        ("resnet18", {"spatial_dims": 1, "n_input_channels": 2, "num_classes": 3}, (2, 256), (32,)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_of_monai(peer, name, options, shape, expected):
    torch.manual_seed(0)
    model = getattr(peer("monai.networks.nets"), name)(**options).eval()
    result = CFCAM(model)(noise(1, *shape))
    assert result.maps.shape == (1, *shape[1:])
    assert result.raw_maps.shape == (1, *expected)
    assert "twice" in result.layers[0].reason
    assert result.maps.isfinite().all()
    assert not result.empty.any()
    assert bool((result.maps.flatten(1).amax(1) == 1).all())


def test_where_all_channels_are_dominant_it_is_monais_gradcam(peer):
    """Of one volume: MONAI's mixes the classes that it predicts for several."""
    torch.manual_seed(0)
    model = peer("monai.networks.nets").resnet10(spatial_dims=3, n_input_channels=1, num_classes=3).eval()
    volume = noise(1, 1, 20, 16, 24)
    theirs = peer("monai.visualize").GradCAM(copy.deepcopy(model), "layer2", postprocessing=nn.Identity())
    for target in (0, 2):
        found = CFCAM(model, "layer2", config=Config(dominant_percentile=0))(volume, target)
        expected = theirs(volume, class_idx=target)[0, 0]
        torch.testing.assert_close(found.maps[0], expected / expected.max(), atol=1e-4, rtol=0)
        raw = theirs.compute_map(volume, class_idx=target)[0, 0]
        assert raw.any()
        torch.testing.assert_close(found.raw_maps[0] / raw.max(), raw / raw.max(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("residual", [0, 2])
def test_the_scores_of_a_segmentation_are_not_what_is_chosen(peer, residual):
    torch.manual_seed(0)
    channels, strides = (8, 16, 32), (2, 2)
    model = peer("monai.networks.nets").UNet(3, 1, 3, channels, strides, num_res_units=residual).eval()
    result = CFCAM(model)(noise(1, 1, 16, 16, 16), targets.Segment(1))
    assert result.layers[-1].name == "model.1"  # 16 channels; 3, the scores, behind it
    assert not result.empty.any()


def test_an_image_that_knows_its_place_is_explained_as_a_plain_one(peer):
    """MetaTensor makes a node of its own of what autograd is asked about a tensor."""
    torch.manual_seed(0)
    ends = nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *ends).eval()
    images = noise(2, 1, 16, 16)
    explain = CFCAM(model, ["1", "4"])
    assert torch.equal(
        explain(peer("monai.data").MetaTensor(images)).maps.as_subclass(torch.Tensor), explain(images).maps
    )
