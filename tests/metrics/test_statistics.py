"""Means with bootstrap intervals."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from cfcam_gpu.metrics import mean_interval, paired_difference, statistics


@pytest.fixture
def values():
    return torch.randn(40, generator=torch.Generator().manual_seed(0)).exp()


def test_the_interval_is_that_of_a_bootstrap_in_plain_loops(values):
    draw = random.Random(1)
    listed = values.tolist()
    means = sorted(sum(draw.choices(listed, k=40)) / 40 for _ in range(20_000))
    found = mean_interval(values)
    np.testing.assert_allclose(found.mean, sum(listed) / 40, rtol=1e-6)
    np.testing.assert_allclose([found.low, found.high], [means[500], means[19_500]], rtol=0.02)
    # `rng` only since SciPy 1.15
    scipys = stats.bootstrap((values.numpy(),), np.mean, method="percentile", random_state=np.random.default_rng(0))
    np.testing.assert_allclose([found.low, found.high], scipys.confidence_interval, rtol=0.02)


def test_a_wider_level_is_a_wider_interval(values):
    narrow, wide = mean_interval(values, level=0.5), mean_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(2)
    hits = 0
    for _ in range(200):
        found = mean_interval(torch.randn(50, generator=generator), resamples=500)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_numbers_whatever_the_chunks(values, monkeypatch):
    expected = mean_interval(values, seed=3)
    assert expected == mean_interval(values, seed=3)
    assert expected != mean_interval(values, seed=4)
    monkeypatch.setattr(statistics, "CHUNK", 40 * 7)
    np.testing.assert_allclose(mean_interval(values, seed=3), expected, rtol=1e-12)
    monkeypatch.setattr(statistics, "CHUNK", 39)
    np.testing.assert_allclose(mean_interval(values, seed=3), expected, rtol=1e-12)


def test_paired_differences_are_narrower_than_unpaired_ones(values):
    better = values + 0.1
    found = paired_difference(better, values)
    np.testing.assert_allclose(found, [0.1, 0.1, 0.1], rtol=1e-5)
    assert paired_difference(values, better).high < 0


def test_one_value_is_its_own_interval():
    assert mean_interval(torch.tensor([3])) == (3, 3, 3)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], TypeError, r"values: expected a torch tensor \(N,\); got list"),
        (torch.ones(2, 2), ValueError, r"values: expected shape \(N,\) with at least one value; got \(2, 2\)"),
        (torch.ones(0), ValueError, r"values: expected shape \(N,\) with at least one value; got \(0,\)"),
        (torch.tensor([1.0, torch.nan, torch.inf]), ValueError, "values: expected finite numbers; those at 1, 2 are"),
    ],
)
def test_bad_values_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        mean_interval(values)


def test_bad_options_are_refused(values):
    for level in (95, "a", None):
        with pytest.raises(ValueError, match=f"level: expected a number between 0 and 1; got {level!r}"):
            mean_interval(values, level=level)
    for resamples in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"resamples: expected a whole number, at least 1; got {resamples}"):
            mean_interval(values, resamples=resamples)
    with pytest.raises(ValueError, match="reference: expected 40 values, one for each of `values`; got 39"):
        paired_difference(values, values[1:])
