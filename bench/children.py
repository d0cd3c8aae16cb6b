"""Programs that are given so long, and then stopped together with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(command: list[str], environ: dict[str, str], seconds: float, *, capture: bool) -> tuple[int | None, str]:
    """Run a command in the checkout's folder.

    Parameters
    ----------
    command : list of str
    environ : dict
    seconds : float
        After so many it is killed, with its children: one that is left would hold the GPU. So it is on Ctrl-C and
        SIGTERM; to be called in the main thread.
    capture : bool
        Take what it says on either stream, instead of letting it through.

    Returns
    -------
    tuple of int or None, and str
        The exit status, None where it was killed; what it said, empty where it was killed or let through.
    """
    to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if capture else {}
    # SIGTERM by default ends us without a word to them.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    process = subprocess.Popen(command, cwd=ROOT, env=environ, text=True, process_group=0, **to)  # type: ignore[call-overload]
    with process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None, ""
        finally:
            signal.signal(signal.SIGTERM, before)
    return process.returncode, output or ""
