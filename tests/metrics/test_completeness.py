"""The completeness gap: by autograd on the whole score, and known by construction."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu.hooks import find
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.metrics import completeness_gap
from cfcam_gpu.targets.request import Request
from tests.transformers_small import VisionTransformer
from tests.transformers_small import images as of_transformer


class Net(nn.Module):
    def __init__(self, bias, power):
        super().__init__()
        self.body, self.power = nn.Conv2d(3, 6, 3), power
        self.head = nn.Linear(6, 4, bias=bias)

    def forward(self, images):
        return self.head(self.body(images).relu().mean(dim=(2, 3)) ** self.power)


def net(**options):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Net(**options).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_head_leaves_no_gap_and_its_bias_is_no_evidence(images, bias):
    model = net(bias=bias, power=1)
    found = completeness_gap(model, "body", images, [0, 1, 2])
    with torch.no_grad():
        logits = model(images).double()
    left = model.head.bias.detach().double() if bias else torch.zeros(4)
    expected = [float(logits[b, b] - left[b]) for b in range(3)]
    np.testing.assert_allclose(found.change, expected, rtol=1e-5)
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-5)
    assert (found.gap < 1e-5).all()


def test_the_slope_of_a_square_says_twice_what_is_there(images):
    """By Euler's theorem: gradient times activation of a homogeneous function is its degree times the function."""
    for power in (2, 3):
        found = completeness_gap(net(bias=True, power=power), "body", images)
        np.testing.assert_allclose(found.evidence / found.change, power, rtol=1e-4)
        np.testing.assert_allclose(found.gap, power - 1, rtol=1e-4)


def test_evidence_is_autograds(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(80, 5))
    found = completeness_gap(model.eval(), "0", images, 3)
    activation = model[0](images).detach().requires_grad_()
    logit = model[1:](activation)[:, 3]
    (gradient,) = torch.autograd.grad(logit.sum(), activation)
    np.testing.assert_allclose(found.evidence, (gradient * activation.detach()).sum(dim=(1, 2, 3)), rtol=1e-4)
    change = (logit - model[1:](torch.zeros_like(activation))[:, 3]).detach()
    np.testing.assert_allclose(found.change, change, rtol=1e-4)
    assert (found.gap > 0.01).all()


def test_gradients_are_the_models_own_where_an_explainer_has_libragrads_by_default():
    model, inputs = VisionTransformer(), of_transformer()
    found = completeness_gap(model, "blocks.1", inputs, 2)
    captured = capture(model, find(model, "blocks.1"), inputs, Request(indices=torch.full((len(inputs),), 2)))
    expected = (captured.activations * captured.gradients[:, 0]).sum(dim=(1, 2, 3))
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-4)


def test_a_layer_that_adds_nothing_has_no_gap():
    model = nn.Sequential(nn.Conv1d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(10, 2)).eval()
    found = completeness_gap(model, "0", torch.zeros(1, 1, 5), 0)
    assert (found.gap.tolist(), found.evidence.tolist(), found.change.tolist()) == ([0], [0], [0])


class Normed(nn.Module):
    """Class 2 gets one over the length of what the layer gives; all are divided by it if `over`."""

    def __init__(self, over):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.over = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), over

    def forward(self, images):
        features = self.body(images).relu().mean(dim=(2, 3))
        length = features.norm(dim=1, keepdim=True)
        logits = self.head(features / length if self.over else features)
        return logits + functional.pad(1 / length, (2, 1))


@pytest.mark.parametrize("over", [True, False], ids=["0 / 0", "another class is infinite"])
def test_where_there_is_no_answer_without_the_layer_there_is_no_gap(images, over):
    found = completeness_gap(Normed(over).eval(), "body", images, 1)
    assert found.gap.isnan().all()
    assert found.change.isnan().all()
    assert found.evidence.isfinite().all()


def test_training_mode_warns(images):
    model = nn.Sequential(net(bias=True, power=1), nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="model: 1 modules in training mode drop at random"):
        completeness_gap(model.train(), "0.body", images, 1)


def test_bad_input_is_refused(images):
    model = net(bias=True, power=1)
    with pytest.raises(ValueError, match="target: expected None or one class index for each image"):
        completeness_gap(model, "body", images, lambda logits: logits[0])
    with pytest.raises(ValueError, match=r"target_layer: the model has no layer 'boddy'"):
        completeness_gap(model, "boddy", images)
    with pytest.raises(ValueError, match=r"images: expected shape \(B, C, H, W\)"):
        completeness_gap(model, "body", images[0])
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module"):
        completeness_gap(functional.relu, "body", images)
