"""What is measured side by side on tokens, and on what is not an image."""

from functools import cache

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.evaluation import candidates
from cfcam_gpu.targets import Segment

from ..networks import two_scales
from ..transformers import pictures, transformer


def test_on_tokens_each_method_of_gradients_is_there_with_both_gradients():
    model, images = transformer(depth=4), pictures()
    there = candidates.find(model, images)
    twice = {name.removesuffix("+libragrad") for name in there if name.endswith("+libragrad")}
    assert {"gradcam", "layercam", "hirescam", "cfcam-one", "cfcam-paper", "layercam-fine"} <= twice
    # What looks at no gradients, at second ones or at attention's weights has none of LibraGrad's.
    assert not twice & {"eigencam", "shapleycam", "legrad", "scorecam"}
    (other,) = [name for name in there if name.startswith("cfcam+")]
    classes = torch.tensor([1, 1])

    def maps(name):
        return there[name].maps(model, images, classes[:, None], (8, 12))[:, 0]

    default = CFCAM(model)(images, classes)
    assert not default.empty.any()
    assert torch.equal(maps("cfcam"), default.maps)
    explain = CFCAM(model, libragrad=other == "cfcam+libragrad")
    assert torch.equal(maps(other), explain(images, classes).maps)
    (layer,) = there["layercam"].layers
    plain, libra = (
        CAM(model, layer, method="layercam", libragrad=which)(images, classes).maps for which in (False, True)
    )
    assert not torch.equal(plain, libra)
    assert torch.equal(maps("layercam"), plain)
    assert torch.equal(maps("layercam+libragrad"), libra)
    assert torch.equal(maps("legrad"), CAM(model, method="legrad")(images, classes).maps)


def test_a_segmentation_of_volumes_is_explained_by_a_callable():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1)).eval()
    volumes = torch.randn(1, 1, 6, 8, 10, generator=torch.Generator().manual_seed(0))
    target = [[Segment(1)]]
    there = candidates.find(model, volumes, target)
    for name, explain in (("cfcam", CFCAM(model)), ("gradcam", CAM(model))):
        found = there[name].maps(model, volumes, target, (6, 8, 10))
        assert found.shape == (1, 1, 6, 8, 10)
        assert torch.equal(found[:, 0], explain(volumes, Segment(1)).maps)


def of_one_level():
    return nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@cache
def those_of(make):
    """The arguments of ``missing``: the names that are there, the model and its images."""
    model = make().eval()
    images = pictures() if make is transformer else torch.rand(1, 3, 32, 32)
    return set(candidates.find(model, images)), model, images


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (two_scales, "legrad+libragrad", "has no layers for legrad (method: legrad needs the self-attention of a tra"),
        (of_one_level, "winsorcam", "has no layers for winsorcam (target_layer: this method takes all convolutions"),
        (of_one_level, "layercam-fine", "it is of two levels, and the layers of this model have one resolution"),
        (two_scales, "gradcam+libragrad", "+libragrad is for models with tokens, and the layers of this one are of"),
        (two_scales, "cfcam+plain", "+plain is for models with tokens, and the layers of this one are of channels"),
        (transformer, "cfcam+libragrad", "it is cfcam itself, which has such gradients by default on this model"),
        (transformer, "gradcam+plain", "+plain is of cfcam alone; gradcam has such gradients, or none, without it"),
        (transformer, "scorecam+libragrad", "scorecam is not measured with LibraGrad's gradients"),
    ],
)
def test_why_a_candidate_of_other_models_is_missing(make, name, said):
    assert name not in those_of(make)[0]
    assert said in candidates.missing(name, *those_of(make))


@pytest.mark.parametrize("name", ["gradcamp", "gradcamp+libragrad", "+plain", ""])
def test_what_is_no_candidates_name_is_missing_for_no_reason(name):
    assert candidates.missing(name, *those_of(two_scales)) is None
