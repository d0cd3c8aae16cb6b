"""The command line as a process of its own: its streams, and what is left when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu.cli import app
from cfcam_gpu.image_files import photos

from .albums import album, small
from .pipeline_jobs import contents, photographs

__all__ = ["album"]

ROOT = Path(__file__).parents[1]


def slow():
    """A quarter of a second for a forward."""
    module = small()
    module.register_forward_pre_hook(lambda module, args: time.sleep(0.25))
    return module


def process(*args, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "cfcam_gpu", *map(str, args)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_a_process_of_its_own(album, tmp_path):
    (album / "a" / "broken.png").touch()
    # What is wrong with the EXIF data of a photograph that can be read is not the user's business.
    damaged = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"
    Image.new("RGB", (30, 30)).save(album / "a" / "damaged.jpg", exif=damaged)
    (album / "a" / "x.png").rename(album / "a" / "猫.png")
    with process("explain", album, "--model", "tests.albums:small", "--target", "2", cwd=tmp_path) as running:
        out, err = running.communicate(timeout=120)
    assert running.returncode == 1, err
    assert "?.png" in out
    assert "class 2" in out
    assert "look at explanations/contact_sheet.png" in out
    assert "broken.png" not in out
    assert f"failed: {album}/a/broken.png: not an image" in err
    assert "Warning" not in err
    lines = (tmp_path / "explanations" / "explanations.jsonl").read_text().splitlines()
    assert [json.loads(line)["class"] for line in lines] == ["class 2"] * 4


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_leaves_no_half_file(album, tmp_path):
    out = tmp_path / "out"
    options = ["--model", "tests.test_cli_process:slow", "--batch-size", 1, "--out", out]
    with process("explain", album, *options, cwd=tmp_path) as running:
        deadline = time.monotonic() + 120
        while not list(out.glob("*.png")) and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
    found = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert any(path.suffix == ".png" for path in found)
    for path in found:
        assert np.load(path).shape == (224, 224) if path.suffix == ".npy" else photos.read(path).size == (224, 224)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_terminated_run_says_so_leaves_no_process_and_goes_on(tmp_path):
    source, out = photographs(tmp_path / "source", 8), tmp_path / "out"
    options = ["--batch-size", 1, "--shard-size", 1, "--workers", 1, "--engine", "reference", "--out", out]
    with process("run", source, "--model", "tests.test_cli_process:slow", *options) as running:
        deadline = time.monotonic() + 120
        while not list(out.glob("parts/*.parquet")) and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.01)
        readers = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 143, err
    assert err.endswith("stopped\nwhat is done is kept, and the same command goes on from there\n")
    assert "Traceback" not in err
    assert readers
    assert [reader for reader in readers if reader.is_running()] == []
    done = [name for name in contents(out) if name.startswith("parts/")]
    assert 0 < len(done) < 8
    again = CliRunner().invoke(app, ["run", str(source), "--model", "tests.albums:small", *map(str, options)])
    assert again.exit_code == 0, again.stderr
    assert f"{len(done)} of 8 images\n" in again.stderr
