"""Batches by every method: what is found of each image, and what becomes of those that fail."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.pipelines.batches import BatchExplainer, trial
from cfcam_gpu.pipelines.found import Found, joined
from cfcam_gpu.pipelines.map_summaries import summarised
from cfcam_gpu.pipelines.rows import COLUMNS, columns, table
from cfcam_gpu.pipelines.stream import batches_of

from ..albums import small
from ..networks import two_scales
from ..pipeline_jobs import images


def rows_of(explain, x, targets=None, **options):
    """The rows of a batch."""
    (batch,) = batches_of([x], len(x), spatial_dims=x.ndim - 2)
    found = columns(explain(x, targets).to_host(), batch, **options)
    return table(found).to_pylist()


def by(method, **options):
    return CAM(small().eval(), "1", method=method, **options)


EXPLAINERS = {
    "CFCAM": lambda: CFCAM(small().eval(), "1"),
    "cfcam": lambda: by("cfcam"),
    "cfcam-paper": lambda: by("cfcam-paper"),
    "two levels": lambda: CAM(two_scales().eval(), method="cfcam"),
    "layercam": lambda: by("layercam"),
    "scorecam": lambda: by("scorecam"),
    "augment": lambda: CFCAM(small().eval(), "1", augment="flip"),
    "smooth": lambda: by("gradcam", smooth=2),
    "fused": lambda: CAM(two_scales().eval(), ["2", "4"], method="cfcam", fuse="mean"),
}
LABELLED = ("CFCAM", "cfcam", "cfcam-paper", "two levels")


@pytest.mark.parametrize("name", EXPLAINERS)
def test_maps_and_rows_are_the_explainers(name):
    explainer, x = EXPLAINERS[name](), images(3)
    result = explainer(x, [1, None, 2])
    explain = BatchExplainer(explainer, dtype=torch.float32, overlay=True)
    found = explain(x, [1, None, 2])
    assert torch.equal(found.maps, result.maps)
    assert torch.equal(found.overlays, result.overlay(x))
    shares = result.logits.softmax(1)
    for b, row in enumerate(rows_of(explain, x, [1, None, 2])):
        assert list(row) == list(COLUMNS)
        assert row["target"] == result.target[b]
        assert row["class"] == f"class {row['target']}"
        assert row["probability"] == pytest.approx(shares[b, row["target"]].item())
        assert row["predicted"] == shares[b].argmax()
        assert row["predicted_class"] == f"class {row['predicted']}"
        assert row["predicted_probability"] == pytest.approx(shares[b].max().item())
        assert row["empty"] is bool(result.empty[b])
        assert row["components"] is None
        for kind in ("clusters", "noise", "dominant", "dead"):
            assert (row[kind] is None) == (name not in LABELLED)
        if name in LABELLED:
            labels = result.labels[b]
            assert row["clusters"] == len(set(labels[labels >= 0].tolist()))
            assert [row[kind] for kind in ("noise", "dominant", "dead")] == [(labels == k).sum() for k in (-1, -2, -3)]


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_bad_image_changes_no_bit_of_its_neighbours(name):
    explainer, x = EXPLAINERS[name](), images(3)
    explain = BatchExplainer(explainer, dtype=torch.float32)
    good = rows_of(explain, x)
    maps = explain(x).maps
    x[1, 0, 0, 0] = torch.nan
    rows = rows_of(explain, x)
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert (rows[0], rows[2]) == (good[0], good[2])
    assert all(rows[1][column] is None for column in list(COLUMNS)[6:-1])
    found = explain(x).maps
    assert torch.equal(found[[0, 2]], maps[[0, 2]])
    assert found[1].isnan().all()


@pytest.mark.parametrize("name", LABELLED)
def test_components_are_the_explanations(name):
    explainer, x = EXPLAINERS[name](), images(3)
    wanted = explainer(x, 1).components(x, 2)
    x[1, 0, 0, 0] = torch.nan
    rows = rows_of(BatchExplainer(explainer, components=2), x, [1, 1, 1])
    assert rows[1]["components"] is None
    for b in (0, 2):
        assert rows[b]["components"] == [
            {"name": one.name, "share": pytest.approx(one.share), "channels": one.channels.tolist()}
            for one in wanted[b]
        ]


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in LABELLED])
def test_components_of_other_methods_are_refused(name):
    with pytest.raises(ValueError, match="components: only one look by the method cfcam has them"):
        BatchExplainer(EXPLAINERS[name](), components=2)


@pytest.mark.parametrize(("components", "error"), [(0, ValueError), (True, TypeError), ("2", TypeError)])
def test_components_that_are_no_number_are_refused(components, error):
    with pytest.raises(error, match="components: expected a"):
        BatchExplainer(CFCAM(small().eval(), "1"), components=components)


def doubled(x):
    return functional.interpolate(x, scale_factor=2)


@pytest.mark.parametrize("size", [(32, 32), None])
def test_where_prepare_resizes_a_batch_of_bad_images_has_maps_like_the_others(size):
    x = images(4)[..., :16, :16]
    x[2:, 0, 0, 0] = torch.nan
    explain = BatchExplainer(CFCAM(small().eval(), "1"), prepare=doubled, size=size)
    found = [explain(part) for part in x.split(2)]
    assert [part.maps.shape for part in found] == [(2, 32, 32)] * 2
    assert [error is None for part in found for error in part.errors] == [True, True, False, False]
    explain = BatchExplainer(CFCAM(small().eval(), "1"), prepare=doubled, size=(32, 32))
    assert explain(x[2:]).maps.shape == (2, 32, 32), "before any other was explained"


class Narrow(nn.Module):
    """A device that holds two images."""

    def forward(self, x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x


@pytest.mark.parametrize(("name", "components"), [("CFCAM", None), ("CFCAM", 2), ("layercam", None)])
def test_a_batch_that_is_halved_is_put_together_again(name, components, caplog):
    x = images(5)
    x[:2, 0, 0, 0] = torch.nan  # a part of which all fail
    wide = EXPLAINERS[name]()
    wanted = rows_of(BatchExplainer(wide, components=components), x)
    narrow = nn.Sequential(nn.Sequential(Narrow(), wide.model[0]), *wide.model[1:]).eval()
    explainer = CFCAM(narrow, "1") if name == "CFCAM" else CAM(narrow, "1", method=name)
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        rows = rows_of(BatchExplainer(explainer, components=components), x)
    assert "going on with 2" in caplog.text
    for row, one in zip(rows, wanted):
        assert {key for key in row if row[key] is None} == {key for key in one if one[key] is None}
        assert row["target"] == one["target"]


NETWORKS = {
    1: lambda: nn.Sequential(nn.Conv1d(2, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3)),
    3: lambda: nn.Sequential(nn.Conv3d(1, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3)),
}


@pytest.mark.parametrize("dims", NETWORKS)
def test_volumes_and_signals(dims):
    torch.manual_seed(0)
    explainer = CFCAM(NETWORKS[dims]().eval(), "1")
    shape = {1: (2, 24), 3: (1, 8, 12, 16)}[dims]
    x = torch.rand(3, *shape)
    result = explainer(x)
    x[1].fill_(torch.nan)
    explain = BatchExplainer(explainer, dtype=torch.float32)
    found = explain(x)
    assert torch.equal(found.maps[[0, 2]], result.maps[[0, 2]])
    assert found.maps.shape == (3, *shape[1:])
    rows = rows_of(explain, x)
    assert [rows[0][name] for name in ("width", "height", "depth")] == [*reversed(shape[1:]), None, None][:3]
    there = [rows[0][f"centre_{axis}"] is not None for axis in "xyz"]
    assert there == [axis < dims for axis in range(3)]
    assert explain(x[1:2]).maps.shape == (1, *shape[1:])


def numbers(maps):
    area, centre, entropy = summarised(torch.as_tensor(maps, dtype=torch.float32)[None])
    return area.item(), centre[0].tolist(), entropy.item()


def test_the_summary_of_a_map():
    spot = torch.zeros(4, 8)
    spot[1, 6] = 1
    assert numbers(spot) == (1 / 32, [1.5 / 4, 6.5 / 8], 0)
    area, centre, entropy = numbers(torch.ones(4, 8))
    assert (area, centre) == (1, [0.5, 0.5])
    assert entropy == pytest.approx(1, abs=1e-6)
    assert entropy <= 1
    pair = torch.zeros(4, 8)
    pair[0, 0], pair[3, 7] = 1, 0.5
    assert numbers(pair)[0] == 2 / 32, "half of the maximum is part of the area"
    weights = np.array([2 / 3, 1 / 3])
    assert numbers(pair)[1] == pytest.approx([weights @ [0.125, 0.875], weights @ [1 / 16, 15 / 16]])
    assert numbers(pair)[2] == pytest.approx(-(weights * np.log(weights)).sum() / math.log(32))
    pair[3, 7] = 0.49
    assert numbers(pair)[0] == 1 / 32


def test_the_summary_of_a_map_of_nothing_or_of_one_position():
    area, centre, entropy = numbers(torch.zeros(4, 8))
    assert (area, *map(math.isnan, [*centre, entropy])) == (0, True, True, True)
    area, centre, entropy = numbers(torch.ones(1, 1))
    assert (area, centre, math.isnan(entropy)) == (1, [0.5, 0.5], True)


def test_the_summary_of_signals_and_volumes():
    volume = torch.zeros(2, 4, 8)
    volume[1, 2, 7] = 1
    assert numbers(volume) == (1 / 64, [0.75, 2.5 / 4, 7.5 / 8], 0)
    assert numbers(volume[1, 2]) == (1 / 8, [7.5 / 8], 0)


def test_the_host_waits_for_no_summary():
    # The meta device has no values to read.
    found = summarised(torch.empty(2, 4, 8, device="meta"))
    assert [tuple(value.shape) for value in found] == [(2,), (2, 2), (2,)]


def test_of_an_empty_map_the_row_has_no_centre():
    model = small().eval()
    model[-1].weight.data.fill_(-1.0)  # nothing speaks for any class
    row = rows_of(BatchExplainer(CFCAM(model, "1")), images(1))[0]
    assert row["empty"] is True
    assert [row[name] for name in ("area", "centre_x", "centre_y", "centre_z", "entropy")] == [
        0,
        None,
        None,
        None,
        None,
    ]


def test_the_summary_is_that_of_the_map():
    x, model = images(2), small().eval()
    model[-1].weight.data.abs_()  # so that no map is empty
    explainer = CFCAM(model, "1")
    maps = explainer(x).maps.double().numpy()
    for row, one in zip(rows_of(BatchExplainer(explainer), x), maps):
        ys, xs = (np.arange(32) + 0.5) / 32, (np.arange(32) + 0.5) / 32
        share = one / one.sum()
        assert row["area"] == pytest.approx((one >= 0.5).mean())
        assert row["centre_x"] == pytest.approx((share * xs).sum(), abs=1e-5)
        assert row["centre_y"] == pytest.approx((share * ys[:, None]).sum(), abs=1e-5)
        assert row["centre_z"] is None
        positive = share[share > 0]
        assert row["entropy"] == pytest.approx(-(positive * np.log(positive)).sum() / math.log(1024), abs=1e-5)


def test_names_of_classes_are_those_of_target_and_predicted():
    explain = BatchExplainer(CFCAM(small().eval(), "1"))
    row = rows_of(explain, images(1), [1], class_names=list("abcde"))[0]
    assert (row["class"], row["predicted_class"]) == ("b", "abcde"[row["predicted"]])
    with pytest.raises(ValueError, match="class_names: expected a name for every class; got 1, and class 1"):
        rows_of(explain, images(1), [1], class_names=["a"])


def test_parts_that_failed_fit_those_that_did_not():
    explain = BatchExplainer(CFCAM(small().eval(), "1"), overlay=True, components=1)
    good = explain(images(2))
    bad = Found.failed(["no"], (32, 32), overlay=True, components=True)
    whole = joined([good, bad])
    assert (whole.maps.shape, whole.overlays.shape, len(whole.components)) == ((3, 32, 32), (3, 32, 32, 3), 3)
    assert whole.errors == [None, None, "no"]


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_trial_is_the_explanation_of_the_example(name):
    explainer, x = EXPLAINERS[name](), images(1)
    assert torch.equal(trial(explainer, None, x).maps, explainer(x).maps)


def test_a_trial_of_a_bad_image_is_of_noise_always_the_same():
    explainer, x = CFCAM(small().eval(), "1"), images(1)
    x[0, 0, 0, 0] = torch.nan
    found = trial(explainer, None, x)
    assert found.maps.isfinite().all()
    assert torch.equal(found.maps, trial(explainer, None, x).maps)
    pixels = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)

    def prepare(x):
        return torch.where((x == 255).all(), torch.nan, doubled(x.float() / 255))

    assert trial(explainer, prepare, pixels).size == (32, 32)


@pytest.mark.parametrize(
    ("example", "prepare", "message"),
    [
        (images(1).double(), None, r"dataset: .* got \(3, 32, 32\), float64, on 'cpu', and every image fails: "),
        (images(1).byte(), None, "uint8, on 'cpu', and every image fails: images: expected a floating dtype"),
        (images(1)[:, :1], None, r"dataset: .* got \(1, 32, 32\).* every image fails: .*expected input.*3 channels"),
        (images(1)[..., :4, :4], None, r"dataset: .* got \(3, 4, 4\).* every image fails: .*Kernel size"),
        (images(1)[0], None, "The model's first convolution works on 2 axes: spatial_dims=2"),
        (images(1), lambda x: x[:0], "prepare: .* fails: prepare: expected it to return the 1 images.* got shape"),
        (images(1), lambda x: x.numpy(), "prepare: .* fails: prepare: expected it to return a tensor; got ndarray"),
        (images(1), lambda x: x.double(), "prepare: expected it to make the model's input.*every image fails: "),
    ],
)
def test_what_every_image_would_fail_of_is_refused(example, prepare, message):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        trial(CFCAM(small().eval(), "1"), prepare, example)


class Times(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x * self.value


def spoilt(where, value):
    """A network whose logits or activations are never finite."""
    model = small().eval()
    if where == "logits":
        return nn.Sequential(*model, Times(value)).eval()
    return nn.Sequential(nn.Sequential(model[0], Times(value)), *model[1:]).eval()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["logits", "activations"])
@pytest.mark.parametrize("kind", [CFCAM, CAM])
def test_values_that_are_not_finite_are_told_by_the_rows(value, where, kind):
    explainer = kind(spoilt(where, value), "1")
    found = trial(explainer, doubled, images(1)[..., :16, :16])
    assert (found.size, found.maps.shape, found.logits.shape) == ((32, 32), (1, 32, 32), (1, 5))
    explain = BatchExplainer(explainer, prepare=doubled, size=found.size)
    assert all("expected finite numbers" in error for error in explain(images(2)[..., :16, :16]).errors)


def test_no_layer_is_chosen_by_values_that_are_not_finite():
    with pytest.raises(ValueError, match=r"dataset: .* every image fails: logits: expected finite numbers"):
        trial(CFCAM(spoilt("logits", math.nan)), None, images(1))


def test_an_overlay_that_can_not_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"prepare: .*every image fails: images: expected .* as the maps"):
        trial(CFCAM(small().eval(), "1"), doubled, images(1)[..., :16, :16], overlay=True)


def test_a_model_too_large_for_one_image_is_told():
    def full(x):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory with a single image: CUDA out of memory"):
        trial(CFCAM(small().eval(), "1"), full, images(1))
