"""A slide of 40,000 x 40,000 pixels: memory doesn't grow with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


#: The benchmark's memory, and that of the first of its networks alone, which is built in no time.
WHOLE = ["-m", "bench.slides"]
TINY = ["-c", "from bench import slides; slides.MEASURED.popitem(); slides.main()"]


# Of the readers test_workers.py shows it in every run, and tests/bench/test_slides.py has what a small slide takes.
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("side", "program"), [(1_500, TINY), (40_000, WHOLE)])
def test_memory_is_bounded(tmp_path, side, program):
    # Of a process of its own, which nothing else has filled.
    command = [sys.executable, *program, "memory", "--side", str(side), "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*-slides.json")
    found = json.loads(path.read_text())["memory"]
    assert "bench.slides:tiny" in found["networks"]
    for network, of_network in found["networks"].items():
        finest = 0.5 / of_network["mpp"]
        assert of_network["tiles"] > (side * finest / 2 / 112) ** 2  # the tissue is a quarter of it, or more
        # What torch and the network take, and the slide in the page, of which no larger slide has more.
        assert of_network["peak_mib"]["with_readers"] < (2048 if network == "lite0" else 1536)
