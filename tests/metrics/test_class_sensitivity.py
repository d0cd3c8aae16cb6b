"""CASE's test of class sensitivity: top positions in plain sets, the signed-rank test by counting all signs."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from cfcam_gpu import CAM
from cfcam_gpu.core.similarity import agreement
from cfcam_gpu.metrics import class_sensitivity, class_sensitivity_test


def agreement_by_hand(first, second, top):
    def best(values):
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))
        return {i for i in order[: max(1, int(top * len(values)))] if values[i] > 0}

    a, b = best(first.flatten().tolist()), best(second.flatten().tolist())
    return len(a & b) / max(len(a), len(b)) if a and b else np.nan


@pytest.mark.parametrize("top", [0.05, 0.3])
@pytest.mark.parametrize("size", [(12, 9), (77,), (4, 5, 6)])
def test_agreement_in_plain_sets(size, top):
    generator = torch.Generator().manual_seed(1)
    first = (torch.rand(6, *size, generator=generator) * 8).floor() / 8  # ties, which go in reading order
    second = torch.where(torch.rand(6, *size, generator=generator) < 0.7, first, 0.5)
    first[4], second[4] = 0, 0
    first[5] = 0
    found = agreement(first, second, top)
    np.testing.assert_allclose(found, [agreement_by_hand(a, b, top) for a, b in zip(first, second)])
    assert 0 < found[0] < 1
    assert found.isnan().tolist() == [False] * 4 + [True] * 2, "a map of zeros has no top"


def test_few_positions_with_evidence_are_all_that_counts():
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, 7] = 1.0
    other = maps.roll(1, dims=2)
    assert (agreement(maps, maps), agreement(maps, other)) == (1, 0)


@pytest.fixture
def net():
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ).eval()


def test_the_two_likeliest_classes_are_compared(net):
    images = torch.randn(4, 3, 20, 16, generator=torch.Generator().manual_seed(2))
    asked = []

    def explainer(given, classes):
        assert given is images
        asked.append(classes)
        return CAM(net, "1", method="layercam")(given, classes).maps

    found = class_sensitivity(net, explainer, images)
    with torch.no_grad():
        order = net(images).argsort(dim=1, descending=True)[:, :2]
    assert torch.equal(found.classes, order)
    assert torch.equal(torch.stack(asked, dim=1), order)
    expected = [agreement(*(explainer(images, order[:, k])[b : b + 1] for k in (0, 1))) for b in range(4)]
    np.testing.assert_array_equal(found.agreement, torch.cat(expected))
    alone = class_sensitivity(net, explainer, images, memory=1)
    assert torch.equal(alone.classes, found.classes)


def test_a_map_that_knows_no_class_agrees_in_full(net):
    images = torch.randn(3, 3, 20, 16, generator=torch.Generator().manual_seed(2))
    blind = class_sensitivity(net, lambda given, classes: given[:, 0].sigmoid(), images)
    assert blind.agreement.tolist() == [1, 1, 1]
    assert class_sensitivity_test(blind.agreement).p_value == 1


def test_a_map_of_zeros_does_not_win(net):
    images = torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(2))
    calls = []

    def explainer(given, classes):
        """Of the second class the first image's map is empty."""
        calls.append(classes)
        return given[:, 0].sigmoid() * torch.tensor([len(calls) == 1, True])[:, None, None]

    assert class_sensitivity(net, explainer, images).agreement.isnan().tolist() == [True, False]


def test_training_mode_warns(net):
    net.insert(4, nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="model: 1 modules in training mode drop at random"):
        class_sensitivity(net.train(), lambda given, classes: given[:, 0].sigmoid(), torch.randn(2, 3, 20, 16))


def test_the_signed_rank_test_by_counting_all_signs():
    """Of all 2^n signs that ranks may have, the share whose positive sum is at most that seen."""
    values = torch.tensor([0.1, 0.45, 0.2, 0.62, 0.3, 0.41, 0.15])
    found = class_sensitivity_test(values)
    apart = values.double().numpy() - 0.5
    ranks = stats.rankdata(np.abs(apart))
    seen = ranks[apart > 0].sum()
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(ranks))]
    assert found.statistic == seen
    np.testing.assert_allclose(found.p_value, np.mean([total <= seen for total in sums]))
    assert class_sensitivity_test(values, threshold=0.7).p_value < found.p_value
    assert class_sensitivity_test(torch.full((9,), 0.9)).p_value > 0.99
    assert class_sensitivity_test(torch.full((5,), 0.5)) == (0, 1)


def test_bad_input_is_refused(net):
    images = torch.randn(2, 3, 20, 16)
    for top in (5, "a", None, True):
        with pytest.raises(ValueError, match=f"top: expected a share between 0 and 1; got {top!r}"):
            class_sensitivity(net, None, images, top=top)
    one = nn.Sequential(net[:4], nn.Linear(8, 1))
    with pytest.raises(ValueError, match=r"model: expected logits of at least two classes.*got one"):
        class_sensitivity(one, None, images)
    with pytest.raises(ValueError, match=r"maps: expected shape \(2, 20, 16\); got \(2, 3, 20, 16\)"):
        class_sensitivity(net, lambda given, classes: given.sigmoid(), images)
    for threshold in (50, None, "a"):
        with pytest.raises(ValueError, match=f"threshold: expected a share from 0 to 1; got {threshold!r}"):
            class_sensitivity_test(torch.ones(3), threshold=threshold)
    with pytest.raises(ValueError, match="agreement: expected finite numbers; those at 1 are not"):
        class_sensitivity_test(torch.tensor([0.1, torch.nan]))
