"""Ranks of methods over metrics: by hand, in plain loops, and by SciPy's other formula."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cfcam_gpu.evaluation.ranks import rank
from cfcam_gpu.evaluation.table import Summary
from cfcam_gpu.metrics import Interval


def line(metric, better, method, value):
    mean = None if value is None else Interval(value, value, value)
    return Summary(metric, better, method, 9, 0 if mean else 1, mean, None)


def table(better, values):
    """`values` by metric: a number for each of the methods a, b, c, ..."""
    return [
        line(metric, better[metric], method, value)
        for metric, row in values.items()
        for method, value in zip("abcdef", row)
    ]


def test_ranks_by_hand():
    better = {"energy": "high", "drop": "low", "iou": "high"}
    found = rank(table(better, {"energy": [60, 50, 50], "drop": [20, 10, 30], "iou": [3, 2, 1]}))
    assert found.by_metric == {
        "energy": {"a": 1, "b": 2.5, "c": 2.5},
        "drop": {"a": 2, "b": 1, "c": 3},
        "iou": {"a": 1, "b": 2, "c": 3},
    }
    assert list(found.mean.items()) == [("a", 4 / 3), ("b", 5.5 / 3), ("c", 8.5 / 3)]
    assert found.left_out == ()
    # Sums of ranks 4, 5.5 and 8.5 about their mean 6; one pair of equal methods.
    spread = 2**2 + 0.5**2 + 2.5**2
    np.testing.assert_allclose(found.concordance, 12 * spread / (9 * 24 - 3 * 6))
    # Pairs of methods in the same order less those in the other; tau-b leaves the equal pair out of one side.
    np.testing.assert_allclose(found.tau, ((1 - 1) / math.sqrt(2 * 3) + 2 / math.sqrt(2 * 3) + (2 - 1) / 3) / 3)


def test_metrics_that_agree_contradict_or_know_nothing_of_each_other():
    up, down = [1, 2, 3, 4], [4, 3, 2, 1]
    alike = rank(table({"x": "high", "y": "high", "z": "low"}, {"x": up, "y": up, "z": down}))
    assert (alike.concordance, alike.tau) == (1, 1)
    against = rank(table({"x": "high", "y": "high"}, {"x": up, "y": down}))
    assert (against.concordance, against.tau) == (0, -1)
    alone = rank(table({"x": "high"}, {"x": up}))
    assert list(alone.mean) == ["d", "c", "b", "a"]
    assert math.isnan(alone.concordance)
    assert math.isnan(alone.tau)


def test_kendalls_w_is_friedmans_chi_square():
    generator = np.random.default_rng(0)
    values = {f"m{i}": generator.integers(0, 4, 6).tolist() for i in range(5)}
    found = rank(table(dict.fromkeys(values, "high"), values))
    chi_square = stats.friedmanchisquare(*np.array(list(values.values())).T).statistic
    np.testing.assert_allclose(found.concordance, chi_square / (5 * 5))
    taus = [stats.kendalltau(a, b).statistic for a, b in itertools.combinations(values.values(), 2)]
    np.testing.assert_allclose(found.tau, np.mean(taus))


def test_a_metric_without_a_mean_of_each_method_is_left_out_and_named():
    better = {"energy": "high", "noise": "high"}
    found = rank(table(better, {"energy": [1, 2, 3], "noise": [1, None, 3]}))
    assert (list(found.by_metric), found.left_out) == (["energy"], ("noise",))


def test_tables_that_rank_nothing_are_refused():
    with pytest.raises(ValueError, match="table: expected two methods or more, to be ranked; got a"):
        rank(table({"energy": "high"}, {"energy": [1]}))
    with pytest.raises(ValueError, match="table: expected one line for each metric and method; got 5 for 2 metrics"):
        rank(table({"x": "high", "y": "high"}, {"x": [1, 2, 3], "y": [1, 2]}))
    with pytest.raises(ValueError, match="table: expected a metric in which each method has a mean"):
        rank(table({"x": "high"}, {"x": [1, None]}))
