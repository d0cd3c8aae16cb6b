"""Folders of classes, masks and weights, as ``cfcam-gpu bench`` takes them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu.evaluation import data
from cfcam_gpu.named_models import models
from cfcam_gpu.report import gallery, page

from ..networks import two_scales
from .test_evaluation import MODEL, bench, folder, results, values

__all__ = ["folder"]


@pytest.fixture
def class_folders(tmp_path):
    """Makes a folder with a photograph for each of these classes."""

    def make(*names):
        for name in names:
            (tmp_path / "data" / name).mkdir(parents=True)
            Image.new("RGB", (30, 30), "white").save(tmp_path / "data" / name / "x.png")
        return tmp_path / "data"

    return make


def classes(album, names):
    return {one.name.partition("/")[0]: one.class_index for one in album.with_classes_of(names).photographs}


def test_folders_called_by_indices(class_folders):
    album = data.read(class_folders("281", "7"))
    assert classes(album, models.class_names(1000)) == {"281": 281, "7": 7}
    assert [(one.name, one.mask) for one in album.photographs] == [("281/x.png", None), ("7/x.png", None)]
    assert album.grids == ()


def test_folders_called_by_names(class_folders):
    album = data.read(class_folders("Tiger_Cat", "daisy", "tabby"))
    assert classes(album.limited(2), models.class_names(1000)) == {"Tiger_Cat": 282, "daisy": 985}


def test_as_many_folders_as_classes_are_the_classes_in_their_order(class_folders):
    album = data.read(class_folders("n02", "n01", "n03", "n04"))
    assert classes(album, models.class_names(4)) == {"n01": 0, "n02": 1, "n03": 2, "n04": 3}


@pytest.mark.parametrize("names", [("cat", "dog"), ("n01440764", "n02102040"), ("daisy", "flower")])
def test_other_folders_are_no_first_classes_of_imagenet(class_folders, names):
    album = data.read(class_folders(*names))
    with pytest.raises(
        ValueError, match=rf"{names[1]}.* no classes of the model .* 2 folders for its 1000 classes.*man"
    ):
        album.with_classes_of(models.class_names(1000))


def test_folders_of_numbers_and_names_are_refused(class_folders):
    with pytest.raises(ValueError, match="all called by class indices or none"):
        data.read(class_folders("1", "cat"))


def test_class_folders_on_the_command_line(class_folders, tmp_path):
    root = class_folders("a", "b", "c", "d")
    (root / "a" / "scan.mha").touch()
    given = ("--methods", "gradcam", "--metrics", "drop")
    done = bench("faithfulness", root, tmp_path / "out", *given)
    assert done.exit_code == 0, done.stderr
    assert "passed over: 1 .mha" in done.stderr
    assert len(results(tmp_path / "out", "faithfulness")[0]) == 3 * 4
    (root / "e").mkdir()
    Image.new("RGB", (30, 30)).save(root / "e" / "x.png")
    done = bench("faithfulness", root, tmp_path / "new", *given)
    assert (done.exit_code, "5 folders for its 4 classes" in done.stderr) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["ones", "transparent", "palette"])
def test_masks_of_every_kind_measure_the_same(folder, tmp_path, kind):
    given = ("--methods", "gradcam", "--metrics", "energy,pointing")
    assert bench("localisation", folder, tmp_path / "plain", *given).exit_code == 0
    for i in range(4):
        bits = np.asarray(Image.open(folder / f"mask{i}.png")).astype(np.uint8)
        image = Image.fromarray(np.dstack([bits * 255] * 4) if kind == "transparent" else bits)
        if kind == "palette":
            image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(folder / f"mask{i}.png")
    done = bench("localisation", folder, tmp_path / "other", *given)
    assert done.exit_code == 0, done.stderr
    found = [
        values(results(tmp_path / out, "localisation")[0], "gradcam", "energy_pointing_game")
        for out in ("plain", "other")
    ]
    assert found[0] == found[1]
    assert len(set(found[0].values())) > 1


def test_a_mask_that_nobody_understands_fails_its_image_by_its_name(folder, tmp_path):
    Image.fromarray(np.arange(224 * 224, dtype=np.uint8).reshape(224, 224)).save(folder / "mask1.png")
    done = bench("localisation", folder, tmp_path / "out", "--methods", "gradcam", "--metrics", "energy")
    assert done.exit_code == 1
    rows, _ = results(tmp_path / "out", "localisation")
    errors = {row["image"]: row["error"] for row in rows}
    assert errors["1.png"].startswith(f"mask: {folder}/mask1.png: its values are 0, 1, 2, 3, 4, 5, ...; expected 0")
    assert [errors[f"{i}.png"] for i in (0, 2, 3)] == [None] * 3


def test_weights_are_the_models(folder, tmp_path, monkeypatch):
    """In the measurements, in the summary, and in the gallery of a report."""
    weights = {name: value / 2 for name, value in two_scales().state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    given = ("--methods", "gradcam", "--metrics", "drop")
    assert bench("faithfulness", folder, tmp_path / "own", *given).exit_code == 0
    done = bench("faithfulness", folder, tmp_path / "given", *given, "--weights", tmp_path / "weights.pth")
    assert done.exit_code == 0, done.stderr
    (own, about), (found, summary) = (results(tmp_path / out, "faithfulness") for out in ("own", "given"))
    assert (about["weights"], summary["weights"]) == (None, str(tmp_path / "weights.pth"))
    assert values(own, "gradcam", "average_drop") != values(found, "gradcam", "average_drop")

    loaded, load = [], models.load
    monkeypatch.setattr(gallery.models, "load", lambda *given, **asked: loaded.append(given) or load(*given, **asked))
    job = page.Job(results=[tmp_path / "given"], out=tmp_path / "page.html", trust_models=True)
    page.check(job)
    assert loaded == [(MODEL, tmp_path / "weights.pth")]
    other = tmp_path / "own" / "robustness.json"
    # Another metric of the same model, with weights of its own.
    text = json.dumps(about).replace("average_", "other_").replace('"faithfulness"', '"robustness"')
    other.write_text(text)
    with pytest.raises(ValueError, match=r"of one model, .*with other weights \(.*report them apart"):
        page.check(replace(job, results=[other, tmp_path / "given"]))


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    for name, message in (("nowhere.pth", "is not a file"), ("weights.pth", f"does not fit {MODEL}")):
        done = bench("localisation", folder, tmp_path / "out", "--weights", tmp_path / name)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_folders_whose_names_differ_in_case_alone_are_told_apart(class_folders):
    album = data.read(class_folders("a", "A", "b"))
    assert classes(album, ["A", "a", "b", "c"]) == {"A": 0, "a": 1, "b": 2}
    assert classes(album, ["x y", "b", "a", "A"]) == {"A": 3, "a": 2, "b": 1}


def test_a_folder_that_may_be_two_classes_is_refused(class_folders):
    album = data.read(class_folders("TIGER_CAT", "b", "c"))
    with pytest.raises(ValueError, match=r"TIGER_CAT may be class 0 \('tiger cat'\) or class 2 \('Tiger_cat'\); call"):
        album.with_classes_of(["tiger cat", "b", "Tiger_cat"])
