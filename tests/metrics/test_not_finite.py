"""Logits that are not finite: of an image as it is they are refused, of one that a metric has changed they are NaN."""

import pytest
import torch
from torch import nn

from cfcam_gpu import metrics
from cfcam_gpu.core.finite import NotFiniteError

INF, NAN = torch.inf, torch.nan
REFUSAL = "logits: expected finite numbers within float32; image 1 has NaN or infinity"


class Spoilt(nn.Module):
    """Adds `value` to the logit of class 3 of images whose first pixel, (N, 1), is `marked`."""

    def __init__(self, value, marked):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.marked = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), marked
        self.spoil = torch.tensor([0.0, 0.0, 0.0, value])

    def forward(self, images):
        logits = self.head(self.conv(images).relu().mean(dim=(2, 3)))
        return logits + self.spoil.where(self.marked(images[:, :1, 0, 0]), 0.0)


def is_six(pixel):
    return pixel == 6


@pytest.fixture
def images():
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    images[1, 0, 0, 0] = 6
    return images


def maps_of(images, classes):
    return images[:, 1] / 2 + 0.25


#: Each metric's figures of images and their maps.
MEASURES = {
    "drop": lambda model, images, **given: metrics.confidence_change(model, images, maps_of(images, 0), **given).drop,
    "increase": lambda model, images, **given: (
        metrics.confidence_change(model, images, maps_of(images, 0), **given).increase
    ),
    "gain": lambda model, images, **given: metrics.confidence_change(model, images, maps_of(images, 0), **given).gain,
    "insertion": lambda model, images, **given: (
        metrics.insertion(model, images, maps_of(images, 0), **given, baseline="zero", step=40).auc
    ),
    "deletion": lambda model, images, **given: (
        metrics.deletion(model, images, maps_of(images, 0), **given, step=40).auc
    ),
    "single deletion": lambda model, images, **given: metrics.single_deletion(
        model, images, maps_of(images, 0), **given
    ),
    "adcc": lambda model, images, **given: metrics.adcc(model, maps_of, images, maps_of(images, 0), **given).adcc,
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("value", [NAN, INF])
def test_an_image_whose_logits_are_not_finite_is_refused(images, name, value):
    model = Spoilt(value, marked=is_six).eval()
    for given in ({}, {"target": 0}, {"target": [0, 1, None], "memory": 1}):
        with pytest.raises(NotFiniteError, match=REFUSAL):
            MEASURES[name](model, images, **given)


@pytest.mark.parametrize("name", MEASURES)
def test_of_an_image_that_is_changed_they_are_nan(images, name):
    images[:, 0, 0, 0] = 1
    found, plain = (
        MEASURES[name](Spoilt(value, marked=lambda pixel: pixel < 1).eval(), images, target=0) for value in (NAN, 0.0)
    )
    assert found.isnan().all()
    assert not plain.isnan().any()


@pytest.mark.parametrize("value", [NAN, INF])
def test_two_likeliest_classes_need_finite_logits(images, value):
    model = Spoilt(value, marked=is_six).eval()
    for memory in (1, 1 << 30):
        with pytest.raises(NotFiniteError, match=REFUSAL):
            metrics.class_sensitivity(model, maps_of, images, memory=memory)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gap_needs_finite_logits(images, value):
    with pytest.raises(NotFiniteError, match=REFUSAL):
        metrics.completeness_gap(Spoilt(value, marked=is_six).eval(), "conv", images, 0)


def test_a_class_that_is_masked_out_is_in_the_way_of_its_own_logit_alone(images):
    model = Spoilt(-INF, marked=is_six).eval()
    assert metrics.confidence_change(model, images, maps_of(images, 0), 3).drop[1] == 0
    assert metrics.single_deletion(model, images, maps_of(images, 0), 0).isfinite().all()
    with pytest.raises(NotFiniteError, match=REFUSAL):
        metrics.single_deletion(model, images, maps_of(images, 0), 3)
