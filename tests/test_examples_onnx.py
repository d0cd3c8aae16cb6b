"""examples/onnx_only.py: a photograph explained where neither torch nor this package can be imported."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from cfcam_gpu import deploy

from .deploy import files
from .pages import ROOT
from .pipeline_jobs import TINY

#: Runs a script where some packages can't be imported.
_WITHOUT = """
import runpy, sys
for name in ("torch", "cfcam_gpu", "matplotlib", "onnx"):
    sys.modules[name] = None
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture
def photograph(tmp_path):
    """A photograph that lies on its side, as its camera noted."""
    pixels = np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8)
    upright = Image.fromarray(pixels).resize((80, 60))
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "cat.png", exif=exif)
    return tmp_path / "cat.png", TINY.pixels(upright)[None]


def run(tmp_path, *args):
    command = [sys.executable, "-c", _WITHOUT, ROOT / "examples" / "onnx_only.py", *args]
    return subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("fields", "options", "target"),
    [
        ({}, [], None),
        ({"batch": 3, "class_names": None}, [], None),
        ({"target": "input"}, ["--target", "4"], 4),
        ({"target": "input", "classes": 2, "batch": 1}, ["--target", "1"], [[1, 1]]),
    ],
)
def test_the_map_is_the_librarys(tmp_path, photograph, fields, options, target):
    path, pixels = photograph
    file = files.write(tmp_path / "some.onnx", **fields)
    done = run(tmp_path, file, path, "out", *options)
    assert (done.returncode, done.stderr) == (0, "")
    found = deploy.load(file)(TINY.normalize(pixels), target)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "cat.npy"), found.maps.flatten(0, -3)[0], atol=1e-6)
    k = int(found.target.flatten()[0])
    name = f"class {k}" if "class_names" in fields else "abcde"[k]
    assert done.stdout == f"{name}, {found.logits.softmax(1)[0, k]:.1%}\n"
    shown = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "cat.png"))).float()
    drawn = found.overlay(pixels).flatten(0, -4)[0].float()
    assert (shown - drawn).abs().max() < 12  # the colours between the stops
    assert (shown - drawn).abs().mean() < 2


def test_what_a_file_says_of_a_photograph_is_told(tmp_path):
    file = files.write(tmp_path / "some.onnx")
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    done = run(tmp_path, file, "black.png", "out")
    assert "nothing speaks for it: the map is empty" in done.stdout
    wide = {**files.PREPARATION, "std": (0.01,) * 3}
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    done = run(tmp_path, files.write(tmp_path / "wide.onnx", preparation=wide), "white.png", "out")
    assert "its clusters were not complete" in done.stdout
    none = {**files.PREPARATION, "std": (0.0,) * 3}
    done = run(tmp_path, files.write(tmp_path / "none.onnx", preparation=none), "white.png", "other")
    assert done.returncode == 1
    assert "no finite values" in done.stderr
    assert not (tmp_path / "other").exists()
    done = run(tmp_path, file, "white.png", "out", "--target", "2")
    assert done.returncode == 2
    assert "export one with --target input" in done.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"preparation": None}, "doesn't say how a photograph is prepared"), (None, "is no file of cfcam-gpu export")],
)
def test_files_that_it_can_not_use_are_told(tmp_path, photograph, fields, message):
    file = files.write(tmp_path / "some.onnx", **(fields or {}))
    if fields is None:
        model = onnx.load(file)
        del model.metadata_props[:]
        onnx.save(model, file)
    done = run(tmp_path, file, photograph[0], "out")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
