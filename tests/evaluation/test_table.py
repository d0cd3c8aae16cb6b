"""Summaries of what was measured, by hand."""

import torch

from cfcam_gpu import metrics
from cfcam_gpu.evaluation import table
from cfcam_gpu.metrics import Interval


def test_a_method_that_failed_on_an_image_has_no_mean_curve():
    curve = metrics.Curve(torch.tensor([1.0]), torch.tensor([[0.0, 3.0]]), torch.tensor([0.0, 1.0]))
    other = curve._replace(scores=torch.tensor([[2.0, 4.0]]))
    outcomes = {"a": (curve, other), "b": (curve, "broken")}
    rows = [table.Row.of(name, str(i), "m", one) for name, pair in outcomes.items() for i, one in enumerate(pair)]
    assert table.mean_curves(rows) == {"fractions": [0.0, 1.0], "curves": {"m": {"a": [1.0, 3.5], "b": None}}}
    assert table.mean_curves([table.Row.of("a", "0", "n", 1.0)]) == {}


def test_a_summary_by_hand():
    rows = [
        table.Row.of(method, str(i), "m", value)
        for method, given in {"a": (1.0, 2.0, 3.0), "b": (3.0, 4.0, 5.0), "c": (9.0, 9.0, "broken")}.items()
        for i, value in enumerate(given)
    ]
    # In another order, and still pair by pair.
    a, b, c, d = table.summarise(rows[::-1], {"m": "low"}, ["a", "b", "c", "d"], "a")
    assert (a.mean.mean, a.difference, a.images) == (2.0, None, 3)
    assert (b.mean.mean, b.difference) == (4.0, Interval(2.0, 2.0, 2.0))
    assert (c.mean, c.difference, c.images, c.errors) == (None, None, 3, 1)
    assert (d.mean, d.difference, d.images, d.errors) == (None, None, 0, 0)
