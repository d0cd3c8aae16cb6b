"""Folders of evidence: what is in them, and what is refused."""

import copy
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from PIL import Image

import cfcam_gpu
from cfcam_gpu import targets
from cfcam_gpu.hooks.state import weights_sha256
from cfcam_gpu.results import evidence, save_evidence

from ..networks import two_scales

#: A name has a letter that the fonts of most machines lack.
pytestmark = pytest.mark.filterwarnings("ignore:names. no font:UserWarning")


@pytest.fixture(scope="module")
def explained():
    model = two_scales().eval()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return model, images, cfcam_gpu.CFCAM(model, class_names=["cat", "dog", "$x_1$", "猫"])(images, target=[1, "猫"])


def read(path):
    def refuse(value):
        pytest.fail(f"{value} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_folder_for_each_image(explained, tmp_path):
    model, images, result = explained
    about = {"image": {"file": "a.jpg"}, "model": {"name": "mine"}, "method": {"seed": 0}}
    found = save_evidence(result, tmp_path, images, names=["one", "b/c"], trust=result.trust(images), about=about)
    assert found == [tmp_path / "one" / "explanation.json", tmp_path / "b_c" / "explanation.json"]
    overlays = result.overlay(images)
    for b, path in enumerate(found):
        assert {file.name for file in path.parent.iterdir()} == set(evidence.FILES)
        np.testing.assert_array_equal(np.load(path.parent / "map.npy"), result.maps[b])
        np.testing.assert_array_equal(np.asarray(Image.open(path.parent / "overlay.png")), overlays[b])
        plain = np.asarray(Image.open(path.parent / "photograph.png"))
        np.testing.assert_allclose(plain, (images[b].movedim(0, -1) * 255).round(), atol=1)
        assert (path.parent / "figure.pdf").read_bytes().startswith(b"%PDF")
        said = read(path)
        assert said["explained"]["class"] == result.classes[b] == ["dog", "猫"][b]
        assert said["explained"]["probability"] == pytest.approx(result.probability[b].item())
        assert said["prediction"]["target"] == result.logits[b].argmax()
        assert said["image"] == {"height": 224, "width": 224, "file": "a.jpg"}
        assert said["model"]["weights_sha256"] == weights_sha256(model)
        assert said["method"]["config"] == asdict(result.config)
        assert [layer["name"] for layer in said["method"]["layers"]] == [layer.name for layer in result.layers]
        assert said["versions"]["cfcam_gpu"] == cfcam_gpu.__version__
        assert said["trust"]["noise"] == pytest.approx(result.trust(images).noise[b].item())
        assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(said["date"]) < timedelta(minutes=5)


def test_what_a_map_does_not_show_is_said(explained, tmp_path):
    model, images, result = explained
    plain = read(save_evidence(result[0], tmp_path / "plain", images[:1])[0])
    assert "Nothing was measured" in plain["limits"][-1]
    assert not any("empty" in limit or "random" in limit for limit in plain["limits"])
    never = cfcam_gpu.CFCAM(model)(images[:1], lambda logits: -logits.square().sum() * 0)
    given = {"trust": never.trust(images[:1]), "about": {"model": {"random_weights": True, "loss": float("inf")}}}
    told = read(save_evidence(never, tmp_path / "empty", images[:1], **given)[0])
    assert (told["trust"]["noise"], told["trust"]["words"][0]) == (None, "the map is empty")
    assert told["model"]["loss"] is None
    assert told["limits"][0] == "The model's weights are random: this map means nothing."
    assert told["limits"][1].startswith("The map is empty")
    assert (told["explained"]["class"], told["explained"]["empty"]) == (None, True)


def test_weights_have_another_digest_where_one_number_differs(explained):
    model, _, _ = explained
    before = weights_sha256(model)
    other = two_scales().eval()
    assert weights_sha256(other) == before
    with torch.no_grad():
        other[0].bias[0] += 1e-6
    assert weights_sha256(other) != before


def test_what_is_not_known_is_said_and_what_a_callable_is_called(explained, tmp_path):
    model, images, _ = explained
    names = ["cat", "dog", "cow", "hen"]
    result = cfcam_gpu.CFCAM(model, class_names=names)(images[:1], targets.Contrast(1, 0))
    known = read(save_evidence(result, tmp_path / "known", images[:1])[0])
    assert known["explained"]["what"] == "Contrast(index=dog, against=cat)"
    lost = read(save_evidence(copy.copy(result), tmp_path / "lost", images[:1])[0])
    assert "weights_sha256" not in lost["model"]
    told = [said["limits"][0].startswith("The weights of the model were not known") for said in (known, lost)]
    assert told == [False, True]


def test_files_are_not_written_over(explained, tmp_path):
    _, images, result = explained
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / "map.png").write_text("mine")
    (tmp_path / "0001" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"map.png would be written over"):
        save_evidence(result, tmp_path, images)
    assert [path.name for path in tmp_path.iterdir()] == ["0001"]
    save_evidence(result, tmp_path, images, overwrite=True)
    assert (tmp_path / "0001" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.rand(1, 3, 224, 224)}, ValueError, r"images: expected 2 of 224 x 224"),
        ({"images": torch.rand(2, 3, 64, 64)}, ValueError, r"images: expected 2 of 224 x 224"),
        ({"images": [1, 2]}, TypeError, r"images: expected a torch tensor \(B, C, H, W\); got list"),
        ({"images": torch.ones(2, 3, 224, 224, dtype=torch.int64)}, TypeError, "images: expected uint8 or a floating"),
        ({"names": ["a"]}, ValueError, "names: expected 2, one for each image; got 1"),
        (
            {"about": {"models": {}}},
            ValueError,
            "about: expected the sections image, model, method, expected; got models",
        ),
        ({"about": {"model": "mine"}}, TypeError, "about: expected a dict of dicts"),
        ({"about": {"model": {"object": object()}}}, TypeError, "about: expected what JSON takes"),
    ],
)
def test_what_does_not_fit_is_refused(explained, tmp_path, change, error, message):
    _, images, result = explained
    given = {"images": images, **change}
    with pytest.raises(error, match=message):
        save_evidence(result, tmp_path / "out", given.pop("images"), **given)
    assert not (tmp_path / "out").exists()


def test_figures_of_another_explanation_are_refused(explained, tmp_path):
    model, images, result = explained
    of_other = cfcam_gpu.CFCAM(model, class_names=["cat", "dog", "$x_1$", "猫"])(images, 0).trust(images)
    for trust in (of_other, result[:1].trust(images[:1])):
        with pytest.raises(ValueError, match=r"trust: expected figures of this explanation, of dog, 猫 \(2 images\)"):
            save_evidence(result, tmp_path / "out", images, trust=trust)
    assert not (tmp_path / "out").exists()


def test_several_targets_are_refused(explained, tmp_path):
    model, images, _ = explained
    with pytest.raises(ValueError, match="expected one target an image; this one has 2"):
        save_evidence(cfcam_gpu.CFCAM(model)(images, [[0, 1]] * 2), tmp_path, images)
