"""``cfcam-gpu explain``: the expected class beside the predicted one, folders of evidence, and where results go."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu.hooks.state import weights_sha256
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import loading
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.photographs import expected
from cfcam_gpu.targets import Contrast

from ..albums import album, small
from ..test_cli import SMALL, contents, explain, lines, run

__all__ = ["album"]

STEMS = ["x", "x-2", "y"]


@pytest.fixture(scope="module")
def loaded():
    return loading.load_model(Settings(model=SMALL))


@pytest.fixture
def library(loaded, album):
    """The explainer, the photographs as it takes them, and what it predicts of them."""
    takes = loaded.model.preparation
    pixels = [takes.pixels(photos.read(file)) for file in sorted(album.rglob("*.*g"))]
    images = takes.normalize(torch.stack(pixels))
    return loaded.explain, images, loaded.explain(images).target.tolist()


def test_what_speaks_for_each_class_against_the_other_is_shown_side_by_side(library, album, tmp_path):
    explainer, images, predicted = library
    other = (predicted[0] + 1) % 5
    out = tmp_path / "out"
    done = explain(album, "--out", out, "--expected", f"class {other}", "--batch-size", 2)
    assert done.exit_code == 0, done.stderr
    assert explain(album, "--out", tmp_path / "plain", "--batch-size", 2).exit_code == 0
    before, after = contents(tmp_path / "plain"), contents(out)
    same = {f"{stem}.{kind}" for stem in STEMS for kind in ("npy", "png")} | {"contact_sheet.png"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    of_class = explainer(images, other)
    contrasts = explainer(
        images, [[Contrast(other, p), Contrast(p, other)] if p != other else [0, 1] for p in predicted]
    )
    shares = of_class.logits.softmax(1)
    for b, (stem, line) in enumerate(zip(STEMS, lines(out), strict=True)):
        said = line["expected"]
        assert (said["target"], said["class"], said["is_predicted"]) == (other, f"class {other}", False)
        assert said["probability"] == pytest.approx(shares[b, other].item(), abs=1e-5)
        assert (said["against_predicted"]["map"], said["map"]) == (
            f"{stem}.expected-against-predicted.npy",
            f"{stem}.expected.npy",
        )
        maps = [of_class.maps[b], *contrasts.maps[b]]
        empty = [of_class.empty[b], *contrasts.empty[b]]
        for one, values, none in zip([said, said["against_predicted"], said["predicted_against"]], maps, empty):
            np.testing.assert_allclose(np.load(out / one["map"]), values, atol=1e-4)
            assert one["empty"] == none
        with Image.open(out / said["picture"]) as picture:
            width, height = picture.size
        assert 3.5 < width / height < 5
    assert f"3 predicted as another class than class {other}, as *.expected.png shows" in done.stdout
    assert "without a contrast" not in done.stdout


def test_a_photograph_that_is_predicted_as_expected_has_no_contrast(library, album, tmp_path):
    *_, predicted = library
    done = explain(album, "--out", tmp_path / "out", "--expected", predicted[0])
    assert done.exit_code == 0
    met = predicted.count(predicted[0])
    assert f"{met} predicted as expected, without a contrast" in done.stdout
    found = [line["expected"] for line in lines(tmp_path / "out")]
    assert [one["is_predicted"] for one in found] == [index == predicted[0] for index in predicted]
    assert set(found[0]) == {"target", "class", "probability", "is_predicted"}
    assert not (tmp_path / "out" / "x.expected.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "1"], "expected: each photograph's predicted class is set against it, so that no --target goes"),
        (["--method", "finercam"], "expected: Finer-CAM explains classes alone"),
        (["--method", "eigencam"], "expected: Eigen-CAM has the same map for every class"),
        (["--expected", "clas 3"], "expected: no class is called 'clas 3'; nearest: class 3"),
        (["--expected", "9"], "expected: class 9 is out of range for 5 classes"),
        (["--evidence", "--target", "1", "--target", "2"], "expected: each photograph's predicted class"),
    ],
)
def test_what_has_no_contrast_is_refused(album, tmp_path, options, message):
    done = explain(album, "--out", tmp_path / "out", "--expected", "3", *options)
    assert (done.exit_code, f"error: {message}" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_an_exported_file_has_no_contrast():
    with pytest.raises(ValueError, match="expected: an exported file explains classes alone"):
        expected.check("cfcam", [], exported=True)


@pytest.mark.parametrize(
    "options", [["--target", "1", "--target", "2"], ["--spatial-dims", "3", "--channels", "1", "--size", "32"]]
)
def test_what_has_no_folder_of_evidence_is_refused(album, tmp_path, options):
    done = explain(album, "--out", tmp_path / "out", "--evidence", *options)
    assert (done.exit_code, "error: evidence: expected" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("there", ["x.expected.png", "y.predicted-against-expected.npy", "evidence/x"])
def test_what_is_there_stays(album, tmp_path, there):
    (tmp_path / "out" / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / there).write_text("mine")
    done = explain(album, "--out", tmp_path / "out", "--expected", "3", "--evidence")
    assert (done.exit_code, f"{there} would be written over" in done.stderr) == (2, True), done.stderr
    assert contents(tmp_path / "out") == {there: b"mine"}


def test_a_folder_of_evidence_says_all_it_takes_to_make_the_map_again(library, album, tmp_path):
    *_, predicted = library
    other = (predicted[0] + 1) % 5
    out = tmp_path / "out"
    done = explain(album / "a", "--out", out, "--expected", other, "--evidence", "--preset", "paper")
    assert done.exit_code == 0, done.stderr
    folder = out / lines(out)[0]["evidence"]
    assert folder == out / "evidence" / "x"
    said = json.loads((folder / "explanation.json").read_text())
    assert (folder / "map.npy").read_bytes() == (out / "x.npy").read_bytes()
    assert (folder / "map.expected.npy").read_bytes() == (out / "x.expected.npy").read_bytes()
    assert (folder / said["expected"]["picture"]).exists()
    photograph = (album / "a" / "x.png").read_bytes()
    assert said["image"]["file_sha256"] == hashlib.sha256(photograph).hexdigest()
    assert said["model"]["weights_sha256"] == weights_sha256(small())
    assert said["model"]["preparation"]["size"] == 224
    assert said["model"]["random_weights"] is None  # the function that made them does not say
    assert (said["method"]["name"], said["method"]["preset"], said["method"]["engine"]) == (
        "cfcam-paper",
        "paper",
        "cpu",
    )
    assert said["prediction"]["target"] == said["explained"]["target"] == predicted[0]
    assert (said["model"]["package"], said["method"]["runtime"]) == (None, None)
    assert said["trust"]["words"]
    pixels = np.asarray(Image.open(folder / "photograph.png"))
    wanted = photos.read(album / "a" / "x.png")
    np.testing.assert_array_equal(pixels, loaded_pixels(wanted))
    before = contents(out)
    assert explain(album / "a", "--out", out, "--evidence").exit_code == 2
    assert contents(out) == before
    # What an earlier run expected is no part of this one's evidence.
    assert explain(album / "a", "--out", out, "--evidence", "--overwrite").exit_code == 0
    assert "expected" not in json.loads((folder / "explanation.json").read_text())
    assert not list(folder.glob("map.*ed.*"))


def loaded_pixels(image):
    takes = loading.load_model(Settings(model=SMALL)).model.preparation
    return takes.pixels(image).movedim(0, -1).numpy()


def test_without_a_folder_named_each_run_gets_one_of_its_own(album, tmp_path, monkeypatch):
    monkeypatch.chdir(album)
    for name in ("explanations", "explanations-2", "explanations-3"):
        done = explain(".")
        assert (done.exit_code, f"look at {name}/contact_sheet.png" in done.stdout) == (0, True), done.stderr
        # What the runs before it made are no photographs of this one.
        assert len(lines(album / name)) == 3
    done = explain("a", "--overwrite")
    assert (done.exit_code, len(lines(album / "explanations"))) == (0, 1)
    assert run("explain", "--model", SMALL, "a", "--target", "9").exit_code == 2
    assert {path.name for path in album.iterdir()} == {"a", "b", "explanations", "explanations-2", "explanations-3"}
