"""Explanation.save: what is written, under which names, and never over what is there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import Config, Explanation
from cfcam_gpu.hooks.layers import TargetLayer
from cfcam_gpu.results import saving

LABELS = torch.tensor([[0, 1, 1, -1, -2, -3, -3], [0, 0, 0, 0, -2, -2, -2]])


def explanation(targets=None):
    """Two images, 7 channels, 3 classes; the second map empty. With `targets`, (2, T), a T axis."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(2, 3, 4, generator=generator)
    raw[1] = 0
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    eps = torch.tensor([0.5, 1e-5], dtype=torch.float64)
    found = {"raw_maps": raw, "target": torch.tensor([1, 2]), "labels": LABELS, "weights": LABELS.float(), "eps": eps}
    if targets is not None:
        count = len(targets[0])
        found = {name: torch.stack([value] * count, dim=1) for name, value in found.items()}
        found["target"] = torch.tensor(targets)
    return Explanation(**found, logits=logits, layers=(TargetLayer(nn.ReLU(), "relu"),), config=Config(), size=(12, 16))


def lines(folder):
    return [json.loads(line) for line in (folder / "explanations.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_maps_overlays_and_lines(tmp_path):
    result = explanation()
    images = torch.rand(2, 3, 12, 16)
    files = result.save(tmp_path / "a" / "b", images=images, names=["cat", "dog"], class_names=["x", "y", "z"])
    folder = tmp_path / "a" / "b"
    assert [path.name for path in files] == ["cat.npy", "cat.png", "dog.npy", "dog.png", "explanations.jsonl"]
    assert set(files) == set(folder.iterdir())
    for b, name in enumerate(["cat", "dog"]):
        saved = np.load(folder / f"{name}.npy")
        assert saved.dtype == np.float32
        np.testing.assert_array_equal(saved, result.maps[b])
        np.testing.assert_array_equal(Image.open(folder / f"{name}.png"), result.overlay(images)[b])
    p = torch.tensor([1.0, 2.0, 0.0]).softmax(0).tolist()
    assert lines(folder)[0] == {
        "name": "cat",
        "map": "cat.npy",
        "overlay": "cat.png",
        "target": 1,
        "class": "y",
        "probability": pytest.approx(p[1]),
        "top": [{"target": k, "class": "xyz"[k], "probability": pytest.approx(p[k])} for k in (1, 0, 2)],
        "empty": False,
        "method": "cfcam",
        "layers": ["relu"],
        "channels": 7,
        "clusters": 2,
        "noise": 1,
        "dominant": 1,
        "dead": 2,
        "eps": 0.5,
    }
    assert lines(folder)[1]["empty"] is True
    assert lines(folder)[1]["clusters"] == 1


def test_without_images_names_and_class_names(tmp_path):
    explanation().save(str(tmp_path))
    assert set(contents(tmp_path)) == {"0000.npy", "0001.npy", "explanations.jsonl"}
    assert [line["class"] for line in lines(tmp_path)] == ["class 1", "class 2"]
    assert "overlay" not in lines(tmp_path)[0]


def test_several_targets_an_image(tmp_path):
    result = explanation([[0, 2], [1, 1]])
    result.save(tmp_path, images=torch.rand(2, 3, 12, 16), names=["a", "a"])
    stems = ["a-0", "a-2", "a-1", "a-1-2"]
    assert set(contents(tmp_path)) == {f"{stem}.{kind}" for stem in stems for kind in ("npy", "png")} | {
        "explanations.jsonl"
    }
    found = lines(tmp_path)
    assert [line["map"] for line in found] == [f"{stem}.npy" for stem in stems]
    assert [line["target"] for line in found] == [0, 2, 1, 1]
    assert [line["name"] for line in found] == ["a"] * 4
    assert found[1]["probability"] == pytest.approx(torch.tensor([1.0, 2.0, 0.0]).softmax(0)[2].item())
    np.testing.assert_array_equal(np.load(tmp_path / "a-1-2.npy"), result.maps[1, 1])


def test_callables_and_outputs_that_are_no_classes(tmp_path):
    found = explanation()
    fields = {
        name: getattr(found, name) for name in ("raw_maps", "labels", "weights", "eps", "layers", "config", "size")
    }
    Explanation(**fields, target=None, logits=found.logits).save(tmp_path / "scores")
    assert [(line["target"], len(line["top"])) for line in lines(tmp_path / "scores")] == [(None, 3)] * 2
    Explanation(**fields, target=None, logits=torch.rand(2, 5, 4, 4)).save(tmp_path / "segments")
    assert [(line["probability"], line["top"]) for line in lines(tmp_path / "segments")] == [(None, [])] * 2


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    found = explanation()
    found.logits[0, 0] = float("nan")
    found.save(tmp_path)
    assert lines(tmp_path)[0]["probability"] is None


def test_one_logit_has_no_probability(tmp_path):
    found = explanation()
    replace(found, logits=found.logits[:, :1], target=torch.zeros(2, dtype=torch.int64)).save(tmp_path)
    assert [line["target"] for line in lines(tmp_path)] == [0, 0]
    assert lines(tmp_path)[0]["probability"] is None
    assert lines(tmp_path)[0]["top"][0]["probability"] is None


@pytest.mark.parametrize("there", ["cat.npy", "cat.png", "explanations.jsonl"])
def test_what_is_there_stays_unless_overwrite(tmp_path, there):
    (tmp_path / there).write_text("mine")
    options = {"images": torch.rand(2, 3, 12, 16), "names": ["dog", "cat"]}
    with pytest.raises(FileExistsError, match=there):
        explanation().save(tmp_path, **options)
    assert contents(tmp_path) == {there: b"mine"}
    explanation().save(tmp_path, **options, overwrite=True)
    assert contents(tmp_path)[there] != b"mine"


def test_overwriting_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0000.npy").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "0001.npy").symlink_to(tmp_path / "dangling")
    with pytest.raises(FileExistsError, match=r"0000\.npy, .*0001\.npy"):
        explanation().save(tmp_path / "out")
    explanation().save(tmp_path / "out", overwrite=True)
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / "dangling").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": ["a"]}, ValueError, "names: expected 2, one for each image; got 1"),
        ({"names": "ab"}, TypeError, "names: expected a sequence of str"),
        ({"names": [1, 2]}, TypeError, "names: expected a sequence of str"),
        ({"class_names": ["a", "b"]}, ValueError, "class_names: expected 3, one for each class; got 2"),
        ({"images": torch.rand(1, 3, 12, 16)}, ValueError, "images: expected"),
        ({"images": np.zeros((2, 3, 12, 16))}, TypeError, "images: expected"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        explanation().save(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "C:x",
    "a\0b",
    "a\nb",
    "\udcff",
    "-",
    "x" * 999,
]


def test_names_stay_in_the_folder_and_apart(tmp_path):
    names = [*HOSTILE, *HOSTILE, "A", "a", "a-2", "a", "é", "e\u0301", "猫"]
    stems = saving.file_names(names, taken=["unnamed"])
    assert stems == saving.file_names(names, taken=["unnamed"])
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert "unnamed" not in stems
    assert stems[-7:] == ["A", "a-2", "a-2-2", "a-3", "é", "é-2", "猫"]
    for stem in stems:
        assert not stem.startswith("."), "hidden"
        assert (tmp_path / f"{stem}.npy").resolve().parent == tmp_path.resolve()
        (tmp_path / f"{stem}.npy").touch(exist_ok=False)
        assert len(f".{stem}.npy.00000000.part".encode()) < 255
    explanation().save(tmp_path / "in" / "out", names=HOSTILE[:2])
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path.name, "out"}
