"""``cfcam-gpu run``: what it writes, says and refuses, and its exit status."""

import errno
import io
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cfcam_gpu import CFCAM
from cfcam_gpu.cli import app
from cfcam_gpu.image_files import photos
from cfcam_gpu.image_files.photos import Preparation
from cfcam_gpu.named_models import loading, models
from cfcam_gpu.pipelines import bulk, command
from cfcam_gpu.pipelines.batches import BatchExplainer
from cfcam_gpu.results import durable

from ..albums import album, small
from ..networks import lite0
from ..pipeline_jobs import contents
from ..source_images import archive

__all__ = ["album"]

README = Path(__file__).parents[2] / "README.md"


def run(*args):
    return CliRunner().invoke(app, ["run", *map(str, args)], catch_exceptions=False)


def explain(source, out, *args):
    return run(source, "--out", out, "--model", "tests.albums:small", "--workers", "0", *args)


def test_a_folder(album, tmp_path):
    result = explain(album, tmp_path / "out", "--overlays", "jpg", "--dtype", "float32")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"3 images in {tmp_path}/out/maps.zarr and {tmp_path}/out/manifest.parquet\n"
    assert "tests.albums:small on cpu, cpu engine; 3 images in" in result.stderr
    assert "1: returns the last spatial activation, 8 x 14 x 14" in result.stderr
    assert re.search(r"^0 of 3 images\n3 of 3 images, [\d.]+ images/s$", result.stderr, re.MULTILINE)
    found = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [row["source"] for row in found] == ["a/x.png", "b/x.png", "b/y.jpg"]
    wants = Preparation(224, 256, Image.Resampling.BILINEAR, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = torch.stack([wants.pixels(photos.read(album / row["source"])) for row in found])
    library = CFCAM(small().eval())(wants.normalize(pixels))
    array = zarr.open_array(tmp_path / "out" / "maps.zarr", mode="r")
    np.testing.assert_array_equal(array[:], library.maps)
    assert [row["class"] for row in found] == [f"class {k}" for k in library.target]
    assert all(photos.read(tmp_path / "out" / row["overlay"]).size == (224, 224) for row in found)


def test_bad_images_are_named_and_the_status_tells(album, tmp_path):
    (album / "a" / "empty\n.png").touch()
    first = explain(album, tmp_path / "out")
    assert first.exit_code == 1
    assert "failed: a/empty?.png: not an image" in first.stderr
    assert "1 of 4 images failed" in first.stderr
    again = explain(album, tmp_path / "out")
    assert (again.exit_code, again.stdout) == (1, first.stdout)
    assert "4 of 4 images\nfailed: a/empty?.png" in again.stderr


def test_of_many_bad_images_the_first_are_named(album, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "NAMED", 2)
    for name in "pqr":
        (album / f"{name}.png").touch()
    result = explain(album, tmp_path / "out")
    assert result.stderr.count("failed: ") == 2
    assert f"3 of 6 images failed; all of them are in {tmp_path}/out/manifest.parquet" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere", "--out", "out"], "source: nowhere does not exist"),
        (["album"], "--out: expected DIR; got none"),
        (["album", "--out", "file"], "file"),
        (["album", "--out", "out", "--batch-size", "8", "--shard-size", "12"], "shard_size: expected a multiple"),
        (["album", "--out", "out", "--target", "clas 4"], "target: no class is called 'clas 4'; nearest: class 4"),
        (["album", "--out", "out", "--layer", "00"], "target_layer: the model has no layer '00'"),
        (["album", "--out", "out", "--model", "lite9"], "model: expected lite0"),
        (["album", "--out", "out", "--dtype", "int8"], "--dtype"),
        (["album", "--out", "out", "--workers", "-1"], "--workers"),
    ],
)
def test_bad_usage_is_refused_before_any_work(album, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = run(*options, *([] if "--model" in options else ["--model", "tests.albums:small"]))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"album", "file"}


def test_another_job_is_refused_and_restart_begins_anew(album, tmp_path):
    assert explain(album, tmp_path / "out").exit_code == 0
    before = contents(tmp_path / "out")
    result = explain(album, tmp_path / "out", "--target", "2", "--batch-size", "16")
    assert result.exit_code == 2
    assert "batch_size was 32, is 16" in result.stderr
    assert "target was None, is 2" in result.stderr
    assert "--restart" in result.stderr
    assert contents(tmp_path / "out") == before
    assert explain(album, tmp_path / "out", "--target", "2", "--restart").exit_code == 0
    assert contents(tmp_path / "out") != before


def test_a_full_disk_ends_the_run_with_the_reason_and_it_goes_on(album, tmp_path, monkeypatch):
    options = ["--batch-size", "1", "--shard-size", "1"]
    assert explain(album, tmp_path / "whole", *options).exit_code == 0

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    write = durable.write
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write", lambda path, data: (full if "00000001" in path.name else write)(path, data))
        result = explain(album, tmp_path / "out", *options)
    assert result.exit_code == 1
    assert "error: [Errno 28] No space left on device" in result.stderr
    assert "what is done is kept, and the same command goes on from there" in result.stderr
    result = explain(album, tmp_path / "out", *options)
    assert result.exit_code == 0
    assert "1 of 3 images\n" in result.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_ctrl_c_ends_the_run_with_what_is_done_and_it_goes_on(album, tmp_path, monkeypatch):
    options = ["--batch-size", "1", "--shard-size", "1"]
    assert explain(album, tmp_path / "whole", *options).exit_code == 0
    call, batches = BatchExplainer.__call__, iter([True, False])

    def pressed(*args):
        if next(batches):
            return call(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BatchExplainer, "__call__", pressed)
        result = explain(album, tmp_path / "out", *options)
    assert result.exit_code == 130
    assert result.stderr.endswith("stopped\nwhat is done is kept, and the same command goes on from there\n")
    assert "1 of 3 images\n" in explain(album, tmp_path / "out", *options).stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_random_weights_are_said_loudly(album, tmp_path, monkeypatch):
    load = models.load
    monkeypatch.setattr(
        models, "load", lambda *args, **asked: models.Model(**{**vars(load(*args, **asked)), "trained": False})
    )
    assert "WARNING: the weights are random" in explain(album, tmp_path / "out").stderr


def test_without_the_extra_nothing_is_loaded(album, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "find_spec", lambda name: None)
    monkeypatch.setattr(loading, "load_explainer", lambda *args, **options: pytest.fail("the model was loaded"))
    result = explain(album, tmp_path / "out")
    assert result.exit_code == 2
    assert "pyarrow and zarr not installed; pip install 'cfcam-gpu[pipelines]'" in result.stderr


def test_lines_of_progress_tell_rate_and_time_left(monkeypatch):
    now = iter([0.0, 5.0, 20.0, 21.0, 30.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(now))
    text = io.StringIO()
    lines = command._Lines(Console(file=text))
    for done in (1000, 1500, 3000, 3100, 1_000_000):
        lines(done, 1_000_000)
    assert text.getvalue().splitlines() == [
        "1,000 of 1,000,000 images",
        "3,000 of 1,000,000 images, 100.0 images/s, 2:46:10 left",
        "1,000,000 of 1,000,000 images, 33,300.0 images/s",
    ]


def test_a_terminal_has_a_bar():
    text = io.StringIO()
    with command._progress(Console(file=text, force_terminal=True, width=100)) as show:
        show(1000, 3000)
        show(3000, 3000)
    assert "3000/3000" in text.getvalue()


def readme():
    lines = README.read_text().splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("cfcam-gpu run ")]


def test_the_readmes_commands_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lite0()  # its packages warn when they are first imported
    pixels = photos.read(photos.samples()[0])
    Path("photos").mkdir()
    pixels.save("photos/a.jpg")
    Path("list.csv").write_text("file,target\nphotos/a.jpg,tiger cat\n")
    for number in range(2):
        archive(f"shard-{number:06d}.tar", [("a.jpg", Path("photos/a.jpg").read_bytes()), ("a.cls", b"281")])
    assert len(readme()) >= 3
    for line in readme():
        result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.stderr)
        out = Path(shlex.split(line)[shlex.split(line).index("--out") + 1])
        assert {row["target"] for row in pq.read_table(out / "manifest.parquet").to_pylist()} <= {281, 282}
