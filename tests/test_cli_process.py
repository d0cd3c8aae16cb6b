"""The command line as a process of its own: its streams, and what is left when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cfcam_gpu import photos

from .albums import album, small

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
    (album / "a" / "x.png").rename(album / "a" / "猫.png")
    with process("explain", album, "--model", "tests.albums:small", "--target", "2", cwd=tmp_path) as running:
        out, err = running.communicate(timeout=120)
    assert running.returncode == 1, err
    assert "?.png" in out
    assert "class 2" in out
    assert "look at explanations/contact_sheet.png" in out
    assert "broken.png" not in out
    assert f"failed: {album}/a/broken.png: not an image" in err
    lines = (tmp_path / "explanations" / "explanations.jsonl").read_text().splitlines()
    assert [json.loads(line)["class"] for line in lines] == ["class 2"] * 3


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
