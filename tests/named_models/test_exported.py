"""An exported file in a model's place: explained by the commands, refused where it has no say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cfcam_gpu import Config, deploy
from cfcam_gpu.cli import app
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import exported, loading, models
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.pipelines.ray import Explain
from cfcam_gpu.service.backend import Question

from ..albums import album
from ..deploy import files
from ..pipeline_jobs import TINY, contents
from ..services import application, backend, picture

__all__ = ["album"]

NAMES = ("x", "x-2", "y")


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def file(tmp_path):
    """Writes a file; some of its description may be given."""
    return lambda name="some.onnx", **fields: files.write(tmp_path / name, **fields)


@pytest.fixture
def inputs(album):
    """The album's photographs as the files want them, in its order."""
    paths = [album / "a" / "x.png", album / "b" / "x.png", album / "b" / "y.jpg"]
    return TINY.normalize(torch.stack([TINY.pixels(photos.read(path)) for path in paths]))


def lines(out):
    return [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]


def test_photographs_are_explained_as_the_file_explains_them(album, tmp_path, file, inputs):
    result = run("explain", album, "--model", file(batch=2), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "CF-CAM of" in result.stderr
    assert "default preset, onnxruntime engine; layer features.3" in result.stderr
    assert "features.3: the last of 4 x 4" in result.stderr
    found = deploy.load(file())(inputs)
    for name, record, wanted, k in zip(NAMES, lines(tmp_path / "out"), found.maps, found.target.tolist()):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{name}.npy"), wanted)
        assert (record["target"], record["class"]) == (k, "abcde"[k])
        assert (record["engine"], record["preset"], record["channels"]) == ("onnxruntime", "default", None)
    shares = found.logits.softmax(1).amax(1)
    torch.testing.assert_close(torch.tensor([record["probability"] for record in lines(tmp_path / "out")]), shares)
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_evidence_names_the_runtime_that_made_the_map(album, tmp_path, file):
    out = tmp_path / "out"
    assert run("explain", album / "b" / "x.png", "--model", file(), "--evidence", "--out", out).exit_code == 0
    method = json.loads((out / "evidence" / "x" / "explanation.json").read_text())["method"]
    assert method["runtime"] == deploy.load(file()).runtime
    assert method["libragrad"] is False


def test_classes_are_named_where_the_file_takes_them(album, tmp_path, file):
    result = run("explain", album, "--model", file(target="input"), "--target", "C", "--out", tmp_path / "one")
    assert result.exit_code == 0, result.stderr
    assert {record["class"] for record in lines(tmp_path / "one")} == {"c"}
    path = file("three.onnx", target="input", classes=3)
    targets = ("--target", "e", "--target", 0, "--target", "b")
    result = run("explain", album, "--model", path, *targets, "--out", tmp_path / "three")
    assert result.exit_code == 0, result.stderr
    assert [record["class"] for record in lines(tmp_path / "three")] == ["e", "a", "b"] * 3
    assert (tmp_path / "three" / "x-4-2.npy").is_file()


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, ["--weights", "w.pth"], "weights: expected none with some.onnx, an exported file"),
        ({}, ["--layer", "1"], "layer: expected none"),
        ({}, ["--preset", "paper"], "preset: expected none"),
        ({}, ["--method", "gradcam"], "method: expected none"),
        ({}, ["--engine", "cpu"], "engine: expected auto"),
        ({}, ["--augment", "flip"], "augment: expected none"),
        ({}, ["--smooth", "2"], "smooth: expected none"),
        ({"libragrad": True}, ["--no-libragrad"], "libragrad: expected none with some.onnx, an exported file"),
        ({}, ["--fuse", "mean"], "fuse: expected none"),
        ({}, ["--components", "2"], "components: some.onnx, an exported file, does not give"),
        ({}, ["--target", "1"], "target: expected none, as some.onnx was exported to explain the predicted class"),
        ({"target": "input"}, ["--target", "f"], "target: no class is called 'f'"),
        ({"target": "input"}, ["--target", "1", "--target", "2"], "target: expected 1 class of each photograph"),
        ({"target": "input", "classes": 2}, ["--target", "1"], "target: expected 2 classes of each photograph"),
        ({"target": "input", "classes": 2}, [], "target: expected 2 classes of each photograph"),
        ({"preparation": None}, [], "does not say how a photograph becomes an image"),
        ({"preparation": {"size": 32}}, [], "says in another way how a photograph"),
        ({"preparation": {**files.PREPARATION, "size": 64}}, [], "takes (3, 32, 32), and its preparation makes"),
        ({"segment": 1}, [], "explains a segmentation"),
    ],
)
def test_what_is_the_files_affair_is_refused_before_any_work(album, tmp_path, file, fields, options, message):
    before = file(**fields).read_bytes()
    result = run("explain", album, "--model", tmp_path / "some.onnx", "--out", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "some.onnx").read_bytes() == before


@pytest.mark.parametrize("name", ["none.onnx", "none.pt2"])
def test_a_file_that_is_not_there(album, tmp_path, name):
    for command in (["explain", album], ["run", album]):
        result = run(*command, "--model", tmp_path / name, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert f"model: {tmp_path / name} is not a file" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["layers", "FILE"],
        ["bench", "faithfulness", "--model", "FILE", "--data", "ALBUM"],
        ["bench", "latency", "--model", "FILE"],
        ["export", "OUT.onnx", "--model", "FILE"],
    ],
)
def test_what_looks_into_a_model_refuses_a_file(album, tmp_path, monkeypatch, file, command):
    monkeypatch.chdir(tmp_path)
    result = run(*(str(part).replace("FILE", str(file())).replace("ALBUM", str(album)) for part in command))
    assert result.exit_code == 2
    assert "some.onnx is an exported file, whose layers and other methods nobody can see" in result.stderr


def test_random_weights_are_told_with_the_files_remedy(album, tmp_path, file):
    result = run("explain", album, "--model", file(trained=False), "--out", tmp_path / "out")
    assert "WARNING: the weights are random, so these maps mean nothing; export it with --weights" in result.stderr


@pytest.mark.parametrize(
    ("config", "name"), [(Config.paper(), "paper"), (Config.gated(), "default"), (Config(sigma=2.0), None)]
)
def test_a_preset_is_known_again(album, tmp_path, file, config, name):
    result = run("explain", album, "--model", file(config=config), "--out", tmp_path / "out")
    assert f"{'a configuration of its own' if name is None else f'{name} preset'}, onnx" in result.stderr
    assert {record["preset"] for record in lines(tmp_path / "out")} == {name}


def bulk(album, out, file, *options):
    return run("run", album, "--out", out, "--model", file, "--workers", 0, "--dtype", "float32", *options)


def test_a_data_set_is_explained_and_gone_on_with(album, tmp_path, file, inputs):
    out, path = tmp_path / "out", file(batch=2, target="input")
    (album / "a" / "bad.png").write_text("none")
    result = bulk(album, out, path)
    assert result.exit_code == 1
    assert "on cpu, onnxruntime engine; 4 images in" in result.stderr
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    maps = zarr.open_array(out / "maps.zarr", mode="r")[:]
    assert [row["source"] for row in rows if row["error"]] == ["a/bad.png"]
    found = deploy.load(path)(inputs)
    np.testing.assert_array_equal(maps[1:], found.maps)
    assert [row["class"] for row in rows[1:]] == ["abcde"[k] for k in found.target.tolist()]
    assert {row["clusters"] for row in rows} == {None}
    # Again: nothing is left to do. The same file elsewhere is the same model; another file is not.
    before = contents(out)
    moved = path.rename(tmp_path / "moved.onnx")
    assert bulk(album, out, moved).exit_code == 1
    assert contents(out) == before
    result = bulk(album, out, file("other.onnx", batch=2, target="input", weights_sha256="1" * 64))
    assert result.exit_code == 2
    assert "the model or its weights have changed" in result.stderr


@pytest.mark.parametrize(
    ("fields", "source", "options", "message"),
    [
        ({}, "album", ["--target", "1"], "expected 'predicted' (--target predicted), as some.onnx"),
        ({}, "table", [], "got class 2. Export it with --target input"),
        ({"target": "input", "classes": 2}, "album", [], "some.onnx explains 2 classes of each image"),
        ({}, "album", ["--components", "2"], "does not give the channels' evidence"),
        ({}, "album", ["--preset", "paper"], "preset: expected none"),
    ],
)
def test_a_data_set_that_the_file_can_not_explain(album, tmp_path, file, fields, source, options, message):
    table = album / "table.csv"
    table.write_text("file,target\na/x.png,\nb/x.png,2\n")
    result = bulk(album if source == "album" else table, tmp_path / "out", file(**fields), *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists() or not contents(tmp_path / "out")
    if source == "table":
        assert bulk(table, tmp_path / "out", file(**fields), "--target", "predicted").exit_code == 0


def test_rays_workers_find_the_file_from_the_root(tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = file()
    settings = Settings(model="some.onnx", weights=Path("w.pth")).absolute()
    assert (settings.model, settings.weights) == (str(path), tmp_path / "w.pth")
    assert Settings(model="lite0").absolute() == Settings(model="lite0")
    images = np.empty(3, object)
    images[:] = [picture(seed) for seed in range(3)]
    rows = Explain(model="some.onnx", dtype="float32")({"image": images})
    assert rows["map"].shape == (3, 32, 32)
    assert list(rows["error"]) == [None] * 3


def test_a_service_answers_by_a_file(file):
    answering = backend(Settings(model=str(file(batch=2))))
    assert (answering.about["model"], answering.about["target"]) == ("some.onnx", "predicted")
    assert (answering.about["engine"], answering.about["preset"]) == ("onnxruntime", "default")
    answers = answering.explain([Question(picture(seed)) for seed in range(3)] + [Question(b"none")])
    pixels = torch.stack([answering.decode(picture(seed)) for seed in range(3)])
    found = deploy.load(file())(TINY.normalize(pixels))
    for answer, wanted, k in zip(answers, found.maps, found.target.tolist()):
        values = np.frombuffer(answer.map.data, "<f2").reshape(answer.map.shape)
        np.testing.assert_array_equal(values, wanted.half())
        assert answer.record["class"] == "abcde"[k]
    assert isinstance(answers[3], photos.UnreadableError)


def test_a_class_is_refused_where_the_file_takes_none(file):
    with TestClient(application(backend(Settings(model=str(file()))))) as client:
        assert client.get("/health").json()["target"] == "predicted"
        assert client.get("/health").json()["methods"] == {"cfcam": "CF-CAM"}
        other = client.post("/explain?method=gradcam", content=picture())
        assert other.json()["error"].endswith("got gradcam; an exported file explains by its own method alone")
        refused = client.post("/explain?target=1", content=picture())
        assert (refused.status_code, "predicted class alone" in refused.json()["error"]) == (422, True)
        assert client.post("/explain?target=", content=picture()).status_code == 200
    with TestClient(application(backend(Settings(model=str(file(target="input")))))) as client:
        assert client.get("/health").json()["target"] == "any"
        (found,) = client.post("/explain?target=b", content=picture()).json()["explanations"]
        assert found["class"] == "b"


def test_a_service_by_a_file_of_several_classes_is_refused(file):
    with pytest.raises(ValueError, match="explains 2 classes of each image"):
        backend(Settings(model=str(file(target="input", classes=2))))


def test_info_tells_what_a_file_is(file, tmp_path):
    check = deploy.Check(checked=True, images=5, median=1e-6, worst=2e-5, correlation=0.9999999, against="engine cpu")
    path = file(target="input", classes=3, check=check, config=Config.gated(), libragrad=True)
    result = run("info", path)
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stdout.split())
    for text in (
        "model small", "method cfcam, default preset, by gradients of LibraGrad", "images (B, 3, 32, 32) float32",
        "target an input (B, 3) int64; negative is the predicted class", "maps (B, 3, 32, 32) float32",
        "5: a, b, c, d, e", "size 32, resize 36, interpolation bilinear, mean 0.5 0.5 0.5", "opset 20",
        f"check {check}", "graph the exported one",
    ):  # fmt: skip
        assert text in told, text
    found = json.loads(run("info", path, "--json").stdout)
    assert found["class_names"] == list("abcde")
    assert found["unchanged"] is True
    assert found["preparation"]["interpolation"] == "bilinear"


def test_info_tells_of_a_graph_that_was_changed(file):
    import onnx

    model = onnx.load(file())
    model.graph.node[0].name = "another"
    onnx.save(model, file())
    path = file()
    onnx.save(model, path)
    result = run("info", path)
    assert result.exit_code == 1
    assert "its graph is not the one that was exported" in result.stderr
    assert json.loads(run("info", path, "--json").stdout)["unchanged"] is False


def test_info_refuses_what_is_no_file(tmp_path):
    (tmp_path / "a.onnx").write_text("none")
    for name, message in (("a.onnx", "onnx can't read"), ("b.onnx", "is not a file"), ("c.txt", "expected a file")):
        result = run("info", tmp_path / name)
        assert result.exit_code == 2
        assert message in result.stderr


def test_the_preparation_of_a_file_is_that_of_its_model():
    wanted = models.load("lite0").preparation
    said = {
        "size": wanted.size, "resize": wanted.resize, "interpolation": wanted.interpolation.name.lower(),
        "mean": list(wanted.mean), "std": list(wanted.std),
    }  # fmt: skip
    description = replace(files.description(), preparation=said, images=(3, 224, 224))
    assert exported.preparation(description, "a.onnx") == wanted
    assert wanted.interpolation is Image.Resampling.BICUBIC


def test_a_blank_image_is_tried(file, monkeypatch):
    seen, explain = [], deploy.Deployed.__call__
    monkeypatch.setattr(
        deploy.Deployed, "__call__", lambda self, images, target=None: seen.append(images) or explain(self, images)
    )
    loaded = loading.load_explainer(Settings(model=str(file())))
    assert [tuple(images.shape) for images in seen] == [(1, 3, 32, 32)]
    assert loaded.class_names == list("abcde")
