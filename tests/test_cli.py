"""The command line: what it writes, says and refuses, and its exit status."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu import CFCAM, engines
from cfcam_gpu.cli import app
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import models
from cfcam_gpu.photographs import contact_sheet, job

from .albums import album, small
from .networks import lite0, photographs

__all__ = ["album"]

SMALL = "tests.albums:small"
SAMPLES = ["chelsea", "coffee", "rocket", "china", "flower"]
WRITTEN = ["x.png", "y.npy", "explanations.jsonl", "contact_sheet.png"]


class Spoilt(nn.Module):
    """Not a number on a photograph that is white in its middle."""

    def forward(self, x):
        return torch.where(x[:, :, 100:124, 100:124].amin(dim=(1, 2, 3), keepdim=True) > 2, torch.nan, x)


def spoilt():
    return nn.Sequential(Spoilt(), small())


def interrupted():
    return nn.Sequential(Interrupted(), small())


class Interrupted(nn.Module):
    """Ctrl-C in the fourth forward, the second batch: the first two see where the layers are."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 4:
            raise KeyboardInterrupt
        return x


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def explain(*args, model=SMALL):
    return run("explain", "--model", model, *args)


def lines(out):
    return [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    result = run("demo", "--out", out)
    assert result.exit_code == 0, result.stderr
    return result, out


def test_the_demo_explains_the_samples_as_the_library_does(demo):
    result, out = demo
    assert set(contents(out)) == {f"{name}.{kind}" for name in SAMPLES for kind in ("npy", "png", "components.png")} | {
        "explanations.jsonl",
        "contact_sheet.png",
        "components.png",
    }
    names, images = photographs()
    chosen = images[[names.index(name) for name in SAMPLES]]
    library = CFCAM(lite0())(chosen * 2 - 1)
    overlays = library.overlay(chosen)
    for b, (name, line) in enumerate(zip(SAMPLES, lines(out), strict=True)):
        saved = np.load(out / line["map"])
        assert saved.dtype == np.float32
        np.testing.assert_allclose(saved, library.maps[b], atol=1e-4)
        difference = np.asarray(Image.open(out / line["overlay"])).astype(int) - overlays[b].numpy()
        assert np.abs(difference).max() <= 1
        probabilities = library.logits[b].softmax(0)
        assert Path(line["file"]).stem == name
        assert line["target"] == library.target[b] == line["top"][0]["target"]
        assert line["probability"] == pytest.approx(probabilities[line["target"]].item(), abs=1e-4)
        assert [entry["target"] for entry in line["top"]] == probabilities.topk(5).indices.tolist()
        assert line["clusters"] == library.labels[b].max() + 1
        for label, count in ((-1, "noise"), (-2, "dominant"), (-3, "dead")):
            assert line[count] == (library.labels[b] == label).sum()
        assert line["eps"] == pytest.approx(library.eps[b].item(), rel=1e-4)
        assert line["empty"] is False
        assert (line["layers"], line["channels"]) == (["_blocks.11._depthwise_conv.input", "_avg_pooling.input"], 672)
        assert (line["model"], line["engine"], line["preset"]) == ("lite0", engine_here(), "default")
    assert [line["class"] for line in lines(out)] == ["tiger cat", "espresso", "missile", "palace", "daisy"]
    assert "espresso" in result.stdout
    assert "_avg_pooling.input: the last spatial activation, 1280 x 7 x 7, enters it" in result.stderr
    assert "random" not in result.stderr


def engine_here():
    return "rapids" if torch.cuda.is_available() else "cpu"


def test_the_contact_sheet_has_every_photograph_beside_its_overlay(demo):
    _, out = demo
    sheet = np.asarray(Image.open(out / "contact_sheet.png").convert("RGB")).astype(int)
    tile, step = contact_sheet.TILE, (2 * contact_sheet.TILE + contact_sheet.GAP + contact_sheet.SPACE)
    row = tile + contact_sheet.CAPTION + contact_sheet.SPACE
    head = len(sheet) - contact_sheet.SPACE // 2 - -(-len(SAMPLES) // 2) * row
    for i, name in enumerate(SAMPLES):
        x = contact_sheet.SPACE + i % 2 * step
        y = head + i // 2 * row
        names, images = photographs()
        photograph = (images[names.index(name)] * 255).round().movedim(0, -1).int().numpy()
        np.testing.assert_array_equal(sheet[y : y + tile, x : x + tile], photograph)
        x += tile + contact_sheet.GAP
        np.testing.assert_array_equal(sheet[y : y + tile, x : x + tile], np.asarray(Image.open(out / f"{name}.png")))
        caption = sheet[y + tile + 5 : y + tile + contact_sheet.CAPTION, x - tile : x + tile]
        assert caption.min() < 100, "no text below the tiles"


def test_a_sheet_of_hundreds_shows_the_first_and_says_so(album, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "LIMIT", 2)
    seen = {}
    draw = contact_sheet.draw
    monkeypatch.setattr(
        contact_sheet,
        "draw",
        lambda entries, **said: draw(seen.setdefault("entries", entries), **seen.setdefault("said", said)),
    )
    assert explain(album, "--out", tmp_path / "out").exit_code == 0
    assert [entry.caption for entry in seen["entries"]] == ["x.png", "x.png"]
    assert "3 photographs, the first 2 here" in seen["said"]["subtitle"]


def test_photographs_of_one_name_and_hostile_ones_stay_apart_and_inside(album, tmp_path):
    photograph = (album / "a" / "x.png").read_bytes()
    for name in ("contact_sheet.png", "-rf.png", "a b\n\x1b[31m.png", "explanations.png", "...png"):
        (album / "b" / name).write_bytes(photograph)
    out = tmp_path / "out"
    first = explain(album, album / "b" / "...png", "--out", out)
    assert first.exit_code == 0
    assert "\x1b" not in first.output
    stems = {line["file"].removeprefix(f"{album}{os.sep}"): line["map"].removesuffix(".npy") for line in lines(out)}
    assert stems["a/x.png"] == "x"
    assert stems["b/x.png"] == "x-2"
    assert stems["b/contact_sheet.png"] == "contact_sheet-2"
    assert set(contents(out)) == {f"{stem}.{kind}" for stem in stems.values() for kind in ("npy", "png")} | {
        "explanations.jsonl",
        "contact_sheet.png",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"album", "out"}
    before = contents(out)
    explain(album, album / "b" / "...png", "--out", out, "--overwrite")
    assert contents(out) == before, "the same photographs get the same names and bytes"


def test_what_can_not_be_read_is_named_and_the_rest_go_on(album, tmp_path, monkeypatch):
    Image.new("RGB", (300, 300)).save(album / "large.png")
    Image.new("RGB", (400, 400)).save(album / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    (album / "a" / "cut.png").write_bytes((album / "a" / "x.png").read_bytes()[:2000])
    (album / "empty.jpg").touch()
    (album / "note.jpg").write_text("no photograph")
    result = explain(album, "--out", tmp_path / "out", "--batch-size", 2)
    assert result.exit_code == 1
    for name, reason in {
        "a/cut.png": "",
        "empty.jpg": "not an image",
        "note.jpg": "not an image",
        "large.png": "more than Pillow's limit of 60,000 pixels",
        "huge.png": "more than Pillow's limit of 60,000 pixels",
    }.items():
        assert f"failed: {album / name}: {reason}" in result.stderr
    assert "5 of 8 photographs failed" in result.stderr
    assert [line["map"] for line in lines(tmp_path / "out")] == ["x.npy", "x-2.npy", "y.npy"]
    assert not list((tmp_path / "out").glob("*cut*"))


def test_where_all_fail_there_is_no_sheet(tmp_path):
    (tmp_path / "a.png").touch()
    result = explain(tmp_path / "a.png", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert contents(tmp_path / "out") == {}


def test_a_photograph_that_spoils_its_batch_fails_alone(album, tmp_path):
    Image.new("RGB", (50, 50), "white").save(album / "a" / "white.png")
    result = explain(album, "--out", tmp_path / "out", model=f"{__name__}:spoilt")
    assert result.exit_code == 1
    assert f"failed: {album / 'a' / 'white.png'}: activations: expected finite numbers" in result.stderr
    assert "1 of 4 photographs failed" in result.stderr
    assert [line["map"] for line in lines(tmp_path / "out")] == ["x.npy", "x-2.npy", "y.npy"]


@pytest.mark.parametrize("there", WRITTEN)
def test_what_is_there_stays_unless_overwrite(album, tmp_path, monkeypatch, there):
    out = tmp_path / "out"
    out.mkdir()
    (out / there).write_text("mine")
    (out / "other.png").write_text("mine too")
    with monkeypatch.context() as patch:
        patch.setattr(models, "load", lambda *args, **asked: pytest.fail("the model was loaded"))
        result = explain(album, "--out", out)
    assert result.exit_code == 2
    assert f"error: {out / there} would be written over" in result.stderr
    assert "--overwrite" in result.stderr
    assert contents(out) == {there: b"mine", "other.png": b"mine too"}


def test_overwrite_leaves_the_rest_and_results_are_not_photographs_of_the_next_run(album):
    out = album / "out"
    out.mkdir()
    for name in (*WRITTEN, "other.png"):
        (out / name).write_text("mine")
    assert explain(album, "--out", out, "--overwrite").exit_code == 0
    assert {name for name, content in contents(out).items() if content == b"mine"} == {"other.png"}
    assert explain(album, "--out", out, "--overwrite").exit_code == 0
    assert len(lines(out)) == 3


def test_target_layer_and_preset(album, tmp_path):
    for name, options in {
        "0": [],
        "1": ["--preset", "paper"],
        "2": ["--target", "3"],
        "3": ["--target", "CLASS 3"],
    }.items():
        assert explain(album, "--out", tmp_path / name, "--layer", "0", *options).exit_code == 0
    assert [line["layers"] for line in lines(tmp_path / "0")] == [["0"]] * len(lines(tmp_path / "0"))
    assert {line["preset"] for line in lines(tmp_path / "1")} == {"paper"}
    assert (np.load(tmp_path / "0" / "x.npy") != np.load(tmp_path / "1" / "x.npy")).any()
    assert {(line["target"], line["class"]) for line in lines(tmp_path / "2")} == {(3, "class 3")}
    assert contents(tmp_path / "2") == contents(tmp_path / "3")


def test_the_size_of_a_batch_changes_no_result(album, tmp_path):
    for size in (1, 2, 8):
        assert explain(album, "--out", tmp_path / str(size), "--batch-size", size).exit_code == 0
    for name in ("x.npy", "x-2.npy", "y.npy"):
        maps = [np.load(tmp_path / str(size) / name) for size in (1, 2, 8)]
        np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)
        np.testing.assert_allclose(maps[0], maps[2], atol=1e-5)


def test_random_weights_are_said_loudly(album, tmp_path, monkeypatch):
    load = models.load
    monkeypatch.setattr(
        models, "load", lambda *args, **asked: models.Model(**{**vars(load(*args, **asked)), "trained": False})
    )
    alarms = []
    draw = contact_sheet.draw
    monkeypatch.setattr(
        contact_sheet, "draw", lambda *args, **said: alarms.append(said["alarm"]) or draw(*args, **said)
    )
    result = explain(album, "--out", tmp_path / "out")
    assert "WARNING: the weights are random, so these maps mean nothing" in result.stderr
    assert alarms == ["Random weights: these maps mean nothing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.png"], "nowhere.png does not exist"),
        (["nothing"], "no photographs in nothing"),
        ([], "PHOTO_OR_FOLDER: expected one or more; got none"),
        (["album", "--batch-size", "0"], "--batch-size"),
        (["album", "--preset", "published"], "--preset"),
        (["album", "--device", "tpu"], "--device"),
        (["album", "--no-such-option"], "--no-such-option"),
        (["album", "--engine", "gpu"], "engine: expected one of auto, cpu"),
        (["album", "--engine", "rapids", "--device", "cpu"], "engine: 'rapids'"),
        (["album", "--model", "lite9"], "model: expected lite0"),
        (["album", "--model", "no_such_module:make"], "no_such_module"),
        (["album", "--weights", "nowhere.pth"], "weights: nowhere.pth is not a file"),
        (["album", "--weights", "nothing/a.txt"], "weights: nothing/a.txt can't be read"),
        (["album", "--layer", "00"], "target_layer: the model has no layer '00'"),
        (["album", "--layer", "3"], "target_layer: expected an activation"),
        (["album", "--target", "5"], "target: class 5 is out of range for 5 classes"),
        (["album", "--target", "clas 4"], "target: no class is called 'clas 4'; nearest: class 4"),
        (["album", "--out", "nothing/a.txt"], "nothing/a.txt is a file; expected a folder"),
    ],
)
def test_bad_usage_is_refused_before_any_work(album, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "a.txt").touch()
    result = explain(*options) if "--model" not in options else run("explain", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"album", "nothing"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there(album):
    result = explain(album, "--device", "cuda")
    assert result.exit_code == 2
    assert "device: torch sees no CUDA device" in result.stderr


def test_an_interrupt_keeps_what_is_done(album, tmp_path):
    result = explain(album, "--out", tmp_path / "out", "--batch-size", 1, model=f"{__name__}:interrupted")
    assert result.exit_code != 0
    found = lines(tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {
        *(line[kind] for line in found for kind in ("map", "overlay")),
        "explanations.jsonl",
    }
    assert 1 <= len(found) < 3


def test_what_can_not_be_written_ends_the_run_with_the_reason(album, tmp_path):
    (tmp_path / "out" / "x-2.npy").mkdir(parents=True)
    result = explain(album, "--out", tmp_path / "out", "--batch-size", 1, "--overwrite")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "x-2.npy" in result.stderr
    assert [line["map"] for line in lines(tmp_path / "out")] == ["x.npy"]
    assert not list((tmp_path / "out").glob(".*"))


def test_info():
    found = json.loads(run("info", "--json").stdout)
    assert found["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert found["versions"]["python"].startswith("3.")
    assert set(found["engines"]) == set(engines.ENGINES)
    assert found["engines"]["cpu"] is None
    assert len(found["devices"]) == torch.cuda.device_count()
    text = " ".join(run("info").stdout.split())
    assert f"scikit-learn {found['versions']['scikit-learn']}" in text
    assert "engine cpu available" in text


def test_info_says_why_an_engine_is_missing(monkeypatch):
    monkeypatch.setattr(engines.load("cpu"), "why_missing", lambda: "no [cores]; buy some")
    assert json.loads(run("info", "--json").stdout)["engines"]["cpu"] == "no [cores]; buy some"
    assert "engine cpu missing: no [cores]; buy some" in " ".join(run("info").stdout.split())


def test_the_demo_without_its_extra_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    result = run("demo", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "pip install 'cfcam-gpu[demo]'" in result.stderr


def test_jobs_defaults_are_the_command_lines(album, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(job, "check", lambda given, **kind: jobs.append(given) or pytest.skip("unused"))
    with pytest.raises(pytest.skip.Exception):
        run("explain", album)
    assert jobs == [job.Job(paths=[album], out=Path("explanations"), fresh=True)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_and_a_broken_link_are_named_and_nothing_waits_for_them(album, tmp_path):
    os.mkfifo(album / "pipe.jpg")
    (album / "loop.png").symlink_to("loop.png")
    result = explain(album, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "pipe.jpg: not a regular file" in result.stderr
    assert "loop.png: Too many levels of symbolic links" in result.stderr
