"""Programs that the benchmarks start end with them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ..processes import assert_ended

CODE = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from bench import children

def run(mark):
    children.run(["sh", "-c", f"touch {mark}; sleep 600; true"], dict(os.environ), 600.0)

if len(sys.argv) == 2:
    run(sys.argv[1])
with ThreadPoolExecutor(3) as pool, children.ending_with_us():
    list(pool.map(run, sys.argv[1:]))
"""


@pytest.mark.parametrize("several", [1, 3])
def test_sigterm_takes_all_that_was_started_along(several, tmp_path):
    marks = [tmp_path / str(i) for i in range(several)]
    command = [sys.executable, "-c", CODE, *map(str, marks)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        while not all(mark.exists() for mark in marks):
            assert process.poll() is None
            time.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= several
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert_ended([child.pid for child in started], 10)
