"""Slides explained from Python: by a model's name what the command does, and by an explainer of the caller's own."""

import dataclasses

import pytest

from cfcam_gpu import CAM, CFCAM, slides
from cfcam_gpu.photographs import load

from ..pipeline_jobs import contents
from . import jobs

GREEN = "tests.slides.jobs:green"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return jobs.six_tiles(folder / "phantom.tif")


@pytest.fixture(scope="module")
def wanted(source, tmp_path_factory):
    """The folder of what the command does."""
    (outcome,) = jobs.explain([source], tmp_path_factory.mktemp("job"), classes=["1", "0"])
    return outcome.folder


@pytest.fixture(scope="module")
def preparation():
    return load(GREEN).preparation


def test_a_name_is_what_the_command_takes(source, wanted, tmp_path):
    told = []
    (outcome,) = slides.explain(
        GREEN, str(source), str(tmp_path / "python"), classes=["class 1", 0], batch_size=8, workers=1,
        progress=lambda *each: told.append(each),
    )  # fmt: skip
    assert isinstance(outcome, slides.Outcome)
    assert (outcome.error, outcome.names, outcome.folder) == (None, ["class 1", "class 0"], tmp_path / "python/phantom")
    assert contents(outcome.folder) == contents(wanted)
    assert told[-1] == (0, 6, 6)


def test_an_explainer_of_ones_own_has_the_same_maps(source, wanted, tmp_path, preparation):
    options = {"classes": [1], "preparation": preparation, "batch_size": 8}
    (own,) = slides.explain(CAM(jobs.green(), method="cfcam"), [source], tmp_path / "own", **options)
    assert contents(own.folder)["map-1.ome.tif"] == contents(wanted)["map-1.ome.tif"]
    (again,) = slides.explain(CAM(jobs.green(), method="cfcam"), [source], tmp_path / "own", **options)
    assert again.before == again.tiles == 6
    (other,) = slides.explain(CAM(jobs.green(), method="layercam"), [source], tmp_path / "own", **options)
    assert "method was" in other.error


@pytest.mark.parametrize("given", [True, False])
def test_classes_have_the_names_that_are_given_or_the_explainers(source, tmp_path, preparation, given):
    names = ["rest", "tumour"]
    (outcome,) = slides.explain(
        CFCAM(jobs.green(), class_names=None if given else names),
        source,
        tmp_path,
        classes=["tumour"],
        preparation=preparation,
        class_names=names if given else None,
    )
    assert (outcome.error, outcome.names) == (None, ["tumour"])


def test_a_slide_that_fails_is_told_and_raises_nothing(source, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    found = slides.explain(GREEN, [bad, source], tmp_path / "out", classes=[1])
    assert [outcome.error is None for outcome in found] == [False, True]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"preparation": None}, TypeError, "preparation: expected a photographs.Preparation"),
        ({"method": "layercam"}, ValueError, "method: expected it with a model's name"),
        ({"weights": "x.pt"}, ValueError, "weights: expected it with a model's name"),
        ({"ray": ""}, ValueError, "ray: expected a model by name"),
        ({"class_names": ["one"]}, ValueError, "class_names: expected 2, one for each class; got 1"),
        ({"classes": [7]}, ValueError, "class: class 7 is out of range for 2 classes"),
        ({"model": jobs.green()}, TypeError, "model: expected a name, or a CFCAM, CAM or Deployed; got Sequential"),
        ({"model": GREEN}, ValueError, "preparation: expected it with an explainer of your own"),
        ({"kind": "tiff"}, ValueError, "kind: expected one of ome-tiff, ome-zarr"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(source, tmp_path, preparation, options, error, said):
    given = {"model": CFCAM(jobs.green()), "preparation": preparation, **options}
    with pytest.raises(error, match=said):
        slides.explain(given.pop("model"), source, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_what_a_model_is_tried_on_is_the_size_that_it_is_prepared_for(source, tmp_path, preparation):
    small = dataclasses.replace(preparation, size=128, resize=128)
    (outcome,) = slides.explain(CFCAM(jobs.green()), source, tmp_path, classes=[1], preparation=small)
    assert outcome.error is None
    assert outcome.tiles > 6  # of 128 pixels
