"""``cfcam-gpu detect``, on a model of a factory."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu.cli import app

from ..needs import module
from .networks import of_transformers

MODEL = "tests.detection.networks:Planted"


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (96, 128)), ("b", (64, 64))):
        Image.fromarray(rng.integers(60, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def detect(*arguments):
    return CliRunner().invoke(app, ["detect", *map(str, arguments)])


def test_photographs_become_boxes_maps_and_lines(photographs, tmp_path):
    out = tmp_path / "out"
    result = detect(photographs, "--model", MODEL, "--layer", "features", "--size", "48,64", "--out", out)
    assert result.exit_code == 0, result.output
    names = [f"{name}{end}" for name in "ab" for end in (".png", "-1.png", "-1.npy", "-2.png", "-2.npy")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "detections.jsonl"])
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert {line["class"] for line in lines} == {"left", "right"}
    left = next(line for line in lines if line["class"] == "left" and line["file"].endswith("a.png"))
    assert left["box"] == [0, 0, 64, 96]  # of the photograph, and not of the resized input
    assert np.load(out / left["map"]).shape == (48, 64)
    again = detect(photographs, "--model", MODEL, "--layer", "features", "--size", "48,64", "--out", out)
    assert again.exit_code == 2
    assert "overwrite" in again.output


def test_without_a_folder_each_run_has_its_own_and_finds_the_photographs_alone(photographs, monkeypatch):
    monkeypatch.chdir(photographs)
    results = [detect(".", "--model", MODEL, "--layer", "features", "--size", "48,64") for _ in range(3)]
    for result, folder in zip(results, ("detections", "detections-2", "detections-3")):
        assert (result.exit_code, f"look at {folder}\n" in result.output) == (0, True), result.output
    of_each = [(photographs / f"detections{end}" / "detections.jsonl").read_text() for end in ("", "-2", "-3")]
    assert of_each[0] == of_each[1] == of_each[2]
    again = detect(".", "--model", MODEL, "--layer", "features", "--overwrite")
    assert (again.exit_code, "look at detections\n" in again.output) == (0, True), again.output


def test_one_class_is_asked_for_clipped_and_named(photographs, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    options = ["--classes", tmp_path / "names.txt", "--target", "dog", "--clip", "box", "--out", tmp_path / "out"]
    result = detect(photographs / "a.png", "--model", MODEL, "--layer", "features", *options)
    assert result.exit_code == 0, result.output
    (line,) = (json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines())
    assert line["class"] == "dog"
    assert line["share_in_box"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet"], "model: expected torchvision:NAME, transformers:FOLDER or package.module:factory"),
        (["--model", "torchvision:resnet18"], "torchvision has no detector 'resnet18'"),
        (["--model", "transformers:nowhere"], "model: nowhere is not a folder"),
        (["--model", MODEL, "--layer", "none"], "target_layer: the model has no layer 'none'"),
        (["--model", MODEL, "--layer", "features", "--clip", "mask"], "clip: expected box"),
        (["--model", MODEL, "--layer", "features", "--target", "bird"], "labels: no class is called 'bird'"),
    ],
)
def test_bad_usage_ends_before_any_work(photographs, tmp_path, options, message):
    result = detect(photographs, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("Detr", {"height": 64, "width": 96}),
        pytest.param("RTDetr", {"height": 96, "width": 96}, marks=pytest.mark.long),
    ],
)
def test_what_transformers_saved_is_used(kind, size, photographs, tmp_path):
    transformers = module("transformers", "PEERS")
    of_transformers(kind).save_pretrained(tmp_path / "model")
    padded = {"pad_size": {"height": 128, "width": 128}} if kind == "Detr" else {}
    getattr(transformers, f"{kind}ImageProcessor")(size=size, **padded).save_pretrained(tmp_path / "model")
    out, model = tmp_path / "out", f"transformers:{tmp_path / 'model'}"
    result = detect(photographs / "a.png", "--model", model, "--threshold", 0.01, "--top", 2, "--out", out)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert {line["class"] for line in lines} <= {"cat", "dog", "horse"}
    assert np.load(out / lines[0]["map"]).shape == (size["height"], size["width"])  # without padding
