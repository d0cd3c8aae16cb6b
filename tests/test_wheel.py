"""The wheel: what is in it, and that it works in a clean environment away from the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cfcam_gpu import __version__

ROOT = Path(__file__).parents[1]
BIN = "Scripts" if os.name == "nt" else "bin"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # With what is installed: an isolated build would download its backend.
    command(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """A virtual environment with the wheel alone; for the heavy packages it looks where this one has them."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder)
    python = folder / BIN / Path(sys.executable).name
    # Not compiled: what is imported is, then.
    install = ("install", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", wheel)
    command(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    # Only now, and by a line of a .pth file, which does not follow the .pth of an editable installation over there.
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(packages) / "heavy.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def command(*args, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run([str(arg) for arg in args], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = archive.read(f"cfcam_gpu-{__version__}.dist-info/METADATA").decode()
        classes = archive.read("cfcam_gpu/targets/data/imagenet_classes.txt").decode()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cfcam_gpu").rglob("*.py")}
    inside = {name for name in found if ".dist-info/" not in name}
    page = {f"cfcam_gpu/report/{name}" for name in ("template.html", "page.css", "page.js")}
    page |= {f"cfcam_gpu/service/{name}" for name in ("page.html", "page.css", "page.js")}
    kernels = {f"cfcam_gpu/kernels/{path.name}" for path in (ROOT / "kernels").iterdir()}
    assert {name for name in inside if name.startswith("cfcam_gpu/kernels/")} == kernels
    assert {Path(name).suffix for name in kernels} >= {".cu", ".cuh"}
    assert inside >= sources | page | {"cfcam_gpu/py.typed", "cfcam_gpu/targets/data/imagenet_classes.txt"}
    assert {name.partition("/")[0] for name in inside} == {"cfcam_gpu"}
    assert not [name for name in inside if "__pycache__" in name or "test" in name]
    assert any(name.endswith("/licenses/LICENSE") for name in found)
    assert len(classes.splitlines()) == 1000
    needed = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    base = " ".join(line for line in needed if "extra ==" not in line)
    assert "torch" in base
    assert not any(package in base for package in ("cupy", "cuml", "cucim"))
    for major, cupy in (("12", "cupy-cuda12x"), ("13", "cupy-cuda13x")):
        extra = " ".join(line for line in needed if f"cuda{major}" in line.partition(";")[2])
        assert all(package in extra for package in (cupy, f"cuml-cu{major}", f"cucim-cu{major}"))


#: What one process finds and does: torch takes seconds to import.
_AWAY = """
import json
import cfcam_gpu
from cfcam_gpu import cli, photographs
from cfcam_gpu.engines import kernels

assert kernels.source("components")
photograph = str(photographs.samples()[1])
print(json.dumps([cfcam_gpu.__file__, str(kernels.folder()), photograph]))
assert not cli.app(["info", "--json"], standalone_mode=False)
# By the engine that nothing has to be compiled for, which takes most of a minute.
assert not cli.app(["explain", photograph, "--engine", "reference", "--out", "out"], standalone_mode=False)
"""


def test_it_works_away_from_the_checkout(clean, tmp_path):
    assert command(clean / BIN / "cfcam-gpu", "--version", cwd=tmp_path) == f"cfcam-gpu {__version__}\n"
    said = command(clean / BIN / Path(sys.executable).name, "-c", _AWAY, cwd=tmp_path)
    where, told = said.split("\n", 1)
    package, kernels, photograph = map(Path, json.loads(where))
    assert package.is_relative_to(clean)
    assert kernels.is_relative_to(clean)
    found, end = json.JSONDecoder().raw_decode(told)
    assert found["versions"]["cfcam_gpu"] == __version__
    assert "espresso" in told[end:]
    (line,) = (tmp_path / "out" / "explanations.jsonl").read_text().splitlines()
    assert json.loads(line)["class"] == "espresso"
    assert np.load(tmp_path / "out" / f"{photograph.stem}.npy").max() == 1
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
