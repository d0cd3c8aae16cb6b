"""Randomisation of the model's parameters: what it touches, what it leaves, and what it reports."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from cfcam_gpu import CAM
from cfcam_gpu.core.similarity import spearman
from cfcam_gpu.metrics import cascading_randomisation, classifier_randomisation_ssim, ssim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head((self.scale * self.body(self.stem(images)).relu()).mean(dim=(2, 3)))


@pytest.fixture
def net():
    with torch.random.fork_rng([]):
        torch.manual_seed(11)
        net = Net()
    with torch.no_grad():
        net.stem[1].running_mean.fill_(-0.2)
        net.stem[1].weight.fill_(2.0)
    return net.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def classes():
    return torch.tensor([0, 3])


def by_layercam(model):
    explain = CAM(model, "stem", method="layercam")
    return lambda images, classes: explain(images, classes).maps


def writing_down(seen):
    """Explainers that look at no parameter, but keep what the parameters were."""

    def make(model):
        state = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
        seen.append(state)
        return lambda images, classes: torch.rand(len(images), 4, 4, generator=torch.Generator().manual_seed(0))

    return make


def changed(before, after):
    return {name.rpartition(".")[0] or name for name in before if not torch.equal(before[name], after[name])}


def test_the_cascade_goes_from_the_head_down(net, images, classes):
    seen, steps = [], []
    found = cascading_randomisation(net, writing_down(seen), images, classes, progress=lambda *step: steps.append(step))
    assert found.layers == ("head", "body", "stem.1", "stem.0")
    assert [changed(seen[0], state) for state in seen[1:]] == [
        {"head"},
        {"head", "body"},
        {"head", "body", "stem.1"},
        {"head", "body", "stem.1", "stem.0"},
    ]
    assert found.trained == ("scale",), "no reset_parameters makes this one anew"
    assert found.correlation.tolist() == [[1, 1]] * 4, "a map that looks at no parameter stays"
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_two_layers_get_the_same_numbers(images, classes):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(192, 4)).eval()
    seen = []
    cascading_randomisation(net, writing_down(seen), images, classes)
    assert not torch.equal(seen[-1]["0.weight"], seen[-1]["1.weight"])


def test_the_cascade_may_be_given_as_blocks(net, images, classes):
    seen = []
    found = cascading_randomisation(net, writing_down(seen), images, classes, layers=["head", "stem"])
    assert found.layers == ("head", "stem")
    assert changed(seen[0], seen[2]) == {"head", "stem.0", "stem.1"}
    assert set(found.trained) == {"scale", "body.weight", "body.bias"}


def test_the_correlation_is_that_of_maps_made_anew(net, images, classes):
    found = cascading_randomisation(net, by_layercam, images, classes, layers=["head"], seed=3)
    other = copy.deepcopy(net)
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        other.head.reset_parameters()
    first, second = by_layercam(net)(images, classes), by_layercam(other)(images, classes)
    for b in range(2):
        expected = stats.spearmanr(first[b].flatten(), second[b].flatten()).statistic
        np.testing.assert_allclose(found.correlation[0, b], expected, atol=1e-6)
    assert torch.equal(
        found.correlation, cascading_randomisation(net, by_layercam, images, classes, layers=["head"], seed=3)[0]
    )
    again = classifier_randomisation_ssim(net, by_layercam, images, classes, seed=3)
    torch.testing.assert_close(again, ssim(first, second))
    named = classifier_randomisation_ssim(net, by_layercam, images, classes, seed=3, classifier="head")
    assert torch.equal(named, again)


def test_the_classifier_is_the_last_layer_alone(net, images, classes):
    seen = []

    def make(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return lambda images, classes: torch.zeros(2, 12, 12)

    assert classifier_randomisation_ssim(net, make, images, classes).tolist() == [1, 1]
    assert changed(*seen) == {"head"}


@pytest.mark.parametrize("run", [cascading_randomisation, classifier_randomisation_ssim])
def test_model_and_random_state_come_out_as_they_went_in(run, net, images, classes):
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    run(net, by_layercam, images, classes)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_attention_is_randomised_too(images, classes):
    """torch's multi-head attention has a reset of another name."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    found = cascading_randomisation(Tokens(), writing_down([]), images, classes)
    assert found.layers == ("attention.out_proj", "attention")
    assert found.trained == ()


def test_spearman_is_scipys_also_with_ties():
    generator = torch.Generator().manual_seed(5)
    first = (torch.rand(4, 9, 8, generator=generator) * 6).round() / 6
    second = (0.5 * first + 0.5 * torch.rand(4, 9, 8, generator=generator)).relu()
    for b in range(4):
        expected = stats.spearmanr(first[b].flatten(), second[b].flatten()).statistic
        np.testing.assert_allclose(spearman(first, second)[b], expected)
    strided = torch.stack([first, second], dim=1)
    assert torch.equal(spearman(strided[:, 0], strided[:, 1]), spearman(first, second))
    assert spearman(torch.zeros(1, 3, 3), torch.rand(1, 3, 3)).tolist() == [0]


def test_bad_input_is_refused(net, images, classes):
    with pytest.raises(ValueError, match=r"layers: the model has no layer 'haed' \(nearest: head"):
        cascading_randomisation(net, by_layercam, images, classes, layers=["haed"])
    with pytest.raises(ValueError, match=r"layers: nothing in 'stem.2' has reset_parameters"):
        cascading_randomisation(net, by_layercam, images, classes, layers=["stem.2"])
    with pytest.raises(ValueError, match="layers: expected at least one"):
        cascading_randomisation(nn.Identity(), by_layercam, images, classes)
    with pytest.raises(ValueError, match="classifier: no module of the model has reset_parameters"):
        classifier_randomisation_ssim(nn.Identity(), by_layercam, images, classes)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module; got str"):
        cascading_randomisation("net", by_layercam, images, classes)


@pytest.mark.filterwarnings("ignore")
def test_quantus_takes_the_same_steps(net, images, classes, peer):
    peers = peer("quantus")
    from quantus.functions.similarity_func import correlation_spearman
    from quantus.helpers.model.pytorch_model import PyTorchModel

    assert peers.MPRT
    names = tuple(name for name, _ in PyTorchModel(net, True).get_random_layer_generator(order="top_down"))
    assert cascading_randomisation(net, writing_down([]), images, classes).layers == names
    first = torch.rand(3, 8, 8)
    second = first + 0.3 * torch.rand(3, 8, 8)
    expected = correlation_spearman(first.flatten(1).numpy(), second.flatten(1).numpy(), batched=True)
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-6)
