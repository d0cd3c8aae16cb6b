"""Programs that are given so long, and then stopped together with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_groups: set[int] = set()  # of the processes that run


@contextmanager
def ending_with_us() -> Iterator[None]:
    """Inside, an error in this thread, Ctrl-C and SIGTERM among them, ends all programs that run, and goes on."""
    # SIGTERM by default ends us without a word to them. Only the main thread gets signals.
    listens = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number)) if listens else None
    try:
        yield
    except BaseException:
        for group in list(_groups):
            _kill(group)
        raise
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)


def run(command: list[str], environ: dict[str, str], seconds: float) -> tuple[int | None, str]:
    """Run a command in the checkout's folder, in any thread; see :func:`ending_with_us`.

    Parameters
    ----------
    command : list of str
    environ : dict
    seconds : float
        After so many it is killed, with its children: one that is left would hold the GPU.

    Returns
    -------
    tuple of int or None, and str
        The exit status, None where it was killed; what it said on either stream.
    """
    with ending_with_us():
        to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=environ, text=True, process_group=0, **to)  # type: ignore[call-overload]
        _groups.add(process.pid)
        with process:
            try:
                output, _ = process.communicate(timeout=seconds)
            except BaseException as error:
                _kill(process.pid)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                output, _ = process.communicate()
                return None, output
            finally:
                _groups.discard(process.pid)
        return process.returncode, output


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
