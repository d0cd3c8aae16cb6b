"""``cfcam-gpu slide``: what it writes, says and refuses, and its exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from cfcam_gpu.cli import app

from ..albums import album
from ..pipeline_jobs import contents
from .jobs import phantom, six_tiles

__all__ = ["album"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return six_tiles(tmp_path_factory.mktemp("slides") / "phantom.tif")


def slide(*args):
    return CliRunner().invoke(app, ["slide", *map(str, args)], catch_exceptions=False)


def explain(*args):
    return slide("--model", "tests.slides.jobs:green", "--class", "class 1", *args)


def test_a_slide(source, tmp_path):
    result = explain(source, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{source}: 6 tiles, class 1: {tmp_path}/phantom\n"
    assert (
        "tests.slides.jobs:green on cpu, cpu engine; 1 slide; tiles of 224 pixels of 0.5 micrometres" in result.stderr
    )
    names = {
        "map-1.ome.tif",
        "tiles.parquet",
        "page.html",
        "summary.json",
        "job.json",
        "job.lock",
        "example.safetensors",
    }
    assert {name for name in contents(tmp_path / "phantom") if "/" not in name} == names
    again = explain(source, "--out", tmp_path)
    assert again.exit_code == 0
    assert "6 tiles were done before" in again.stderr


def test_a_magnification_is_a_scale(source, tmp_path):
    assert explain(source, "--out", tmp_path / "by", "--magnification", "10").exit_code == 0
    assert explain(source, "--out", tmp_path / "is", "--mpp", "1").exit_code == 0
    assert contents(tmp_path / "by") == contents(tmp_path / "is")


def test_another_size_of_tiles_is_told(source, tmp_path):
    result = explain(source, "--out", tmp_path, "--tile", "112")
    assert "a tile is brought to the model's 224 pixels: it sees 0.25 micrometres a pixel" in result.stderr


def test_a_bad_slide_is_named_and_the_rest_goes_on(source, tmp_path):
    bad = tmp_path / "bad\x1b[31m.tif"
    bad.write_bytes(b"no slide")
    result = explain(bad, source, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"failed: {tmp_path}/bad?[31m.tif: " in result.stderr
    assert "1 of 2 slides failed" in result.stderr
    assert "6 tiles, class 1" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mpp", "0.5", "--magnification", "20"], "magnification: expected it without --mpp"),
        (["--magnification", "-1"], "magnification: expected a number above 0"),
        (["--mpp", "nan"], "mpp: expected micrometres, a number above 0; got nan"),
        (["--class", "nothing"], "class: no class is called 'nothing'"),
        (["--model", "nothing"], "model: expected lite0"),
    ],
)
def test_refusals(source, tmp_path, options, said):
    result = explain(source, "--out", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {said}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_what_to_install(source, tmp_path, monkeypatch):
    from cfcam_gpu.slides import job

    monkeypatch.setattr(job, "find_spec", lambda name: None if name == "tifffile" else True)
    result = explain(source, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == "error: tifffile not installed; pip install 'cfcam-gpu[slides]'\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_ends_it_in_order(tmp_path, number, status):
    source = phantom(tmp_path / "phantom.tif", width=900, height=900, mpp=0.25)
    command = [sys.executable, "-m", "cfcam_gpu", "slide", source, "--out", tmp_path / "out", "--mpp", "0.25"]
    command += ["--model", "tests.slides.jobs:green", "--class", "1", "--overlap", "0.6", "--tile", "40"]
    command += ["--engine", "reference"]
    # As a terminal does, to its readers, too.
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "out" / "phantom" / "parts" / "state.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == status
    assert "stopped\nwhat is done is kept, and the same command goes on from there" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "phantom" / "summary.json").exists()


@pytest.mark.long
def test_an_exported_file_explains_a_class_that_is_named(source, tmp_path, album):
    files = {target: tmp_path / f"{target}.onnx" for target in ("input", "predicted")}
    for target, file in files.items():
        options = ["--model", "tests.slides.jobs:green", "--target", target]
        result = CliRunner().invoke(app, ["export", str(file), str(album), *options], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    assert explain(source, "--out", tmp_path / "model").exit_code == 0
    found = slide(source, "--model", files["input"], "--class", "1", "--out", tmp_path / "file")
    assert found.exit_code == 0, found.stderr
    maps = [tifffile.imread(tmp_path / by / "phantom" / "map-1.ome.tif") for by in ("model", "file")]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-3)
    refused = slide(source, "--model", files["predicted"], "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "Export it with --target input to name classes" in refused.stderr
