"""Programs that the benchmarks start end with them."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

CODE = """
import os
from bench import children
children.run(["sh", "-c", "echo begun; sleep 600; true"], dict(os.environ), 600.0, capture=False)
"""


def test_sigterm_takes_all_that_was_started_along():
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert started
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    _, left = psutil.wait_procs(started, timeout=10)
    assert not left
