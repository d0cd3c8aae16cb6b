"""The example of a client of the service."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.service.backend import Limits

from ..services import SMALL, backend, serving

ROOT = Path(__file__).parents[2]
WRITTEN = {f"{name}-{method}.png" for name in ("astronaut", "cat") for method in ("cfcam", "gradcam")}


def run(*args):
    command = [sys.executable, str(ROOT / "examples" / "service_client.py"), *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def check(done, folder):
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == WRITTEN
    pictures = {name: np.asarray(Image.open(folder / name)) for name in WRITTEN}
    assert {one.shape for one in pictures.values()} == {(224, 224, 3)}
    assert not np.array_equal(pictures["cat-cfcam.png"], pictures["cat-gradcam.png"])
    assert "cat-gradcam.png: class 1, " in done.stdout


def test_it_asks_a_service_that_is_running(tmp_path):
    with serving(backend(SMALL, Limits())) as address:
        check(run(tmp_path / "out", "--url", f"http://{address}/"), tmp_path / "out")


def test_it_says_why_it_is_refused(tmp_path):
    with serving(backend(SMALL, Limits(body=1000))) as address:
        done = run(tmp_path / "out", "--url", f"http://{address}")
    assert (done.returncode, done.stderr) == (1, "413: body: more than the limit of 1,000 bytes\n")


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_it_starts_and_stops_a_service_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    check(run(tmp_path / "out", "--model", "tests.albums:small"), tmp_path / "out")
