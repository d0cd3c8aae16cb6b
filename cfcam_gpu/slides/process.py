"""A process that reads slides for this one: what dies or hangs in it is an error of the slide."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..scans.errors import UnreadableError
from .errors import SlideError

#: What the process runs.
_MODULE = "cfcam_gpu.slides.worker"
#: Bytes that a pipe holds, where the system lets it: some tiles.
_PIPE = 1 << 20

Answer = tuple[Any, NDArray[np.uint8] | None]


class Process:
    """A process that answers in the order of what it is asked.

    It is neither forked, so that it may be begun beside threads and a GPU, nor does it import the user's script. It is
    in a group of its own: signals that a whole group gets are this process's affair. It ends with this one.

    Parameters
    ----------
    patience : float
        Seconds that an answer is waited for.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._asked = 0
        self._answered = 0
        self._answers: SimpleQueue[Answer | Exception | None] = SimpleQueue()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            # No memory of a GPU, and no threads beside each other's: each process decodes on one core.
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries' warnings of what they read
            env=environment,
            process_group=0,
        )
        self._thread = threading.Thread(target=self._listen, name="slide reader", daemon=True)
        self._thread.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, what: str, **parameters: Any) -> None:
        """Ask for something; :meth:`receive` has the answer.

        Parameters
        ----------
        what : str
            The name of a function of the worker's.
        **parameters : JSON
            Its arguments.
        """
        self._asked += 1
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps([what, parameters]).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:  # it is dead, which who waits for the answer is told
            pass

    def receive(self) -> Answer:
        """Wait for the next answer.

        Returns
        -------
        JSON
        (h, w, 3) uint8 array or None

        Raises
        ------
        SlideError
            If the process died or hangs, or says so.
        UnreadableError, ImportError, OSError
            If the process says so.
        """
        if not self._asked - self._answered:
            raise AssertionError("nothing was asked that is not answered")
        try:
            answer = self._answers.get(timeout=self.patience)
        except Empty:
            self.close()
            self._answers.put(None)
            raise SlideError(
                f"the process that reads it has given no answer for {self.patience:g} seconds and was ended: the file "
                "is damaged, or where it lies is too slow"
            ) from None
        if answer is None:
            self._answers.put(None)  # for who asks again
            raise SlideError(self._death())
        self._answered += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self) -> None:
        """Take the answers that nobody waited for any more, whatever they are."""
        while self._asked > self._answered:
            try:
                self.receive()
            except (ValueError, OSError, ImportError):
                if self._child.poll() is not None:
                    return

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()
        self._thread.join()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # of what it has not read
                pipe.close()

    def _death(self) -> str:
        status = self._child.wait()
        how = f"ended with the status {status}"
        if status < 0:
            how = f"was ended by the signal {-status} ({signal.strsignal(-status)})"
        out_of_memory = "; it may have been the system, as memory ran out: give fewer workers" * (
            status == -signal.SIGKILL
        )
        return f"the process that reads it {how}: the file is damaged, or its reader has a fault{out_of_memory}"

    def _listen(self) -> None:
        """In a thread: take answers off the pipe as they come, so that the process goes on."""
        pipe = self._child.stdout
        assert pipe is not None
        try:
            import fcntl

            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        except (ImportError, AttributeError, OSError):  # no Linux, or no more is allowed to this user
            pass
        try:
            while line := pipe.readline():
                self._answers.put(self._answer(json.loads(line), pipe))
        except (EOFError, ValueError, OSError):  # it died amid an answer
            pass
        self._answers.put(None)

    @staticmethod
    def _answer(head: dict[str, Any], pipe: Any) -> Answer | Exception:
        if "error" in head:
            return _error(**head["error"])
        if head["shape"] is None:
            return head["value"], None
        array = np.empty(head["shape"], np.uint8)
        if pipe.readinto(array.data.cast("B")) < array.nbytes:
            raise EOFError
        return head["value"], array


def _error(kind: str, message: str, number: int | None) -> Exception:
    if kind == "OSError":
        return OSError(number or errno.EIO, message)
    kinds: dict[str, type[Exception]] = {"UnreadableError": UnreadableError, "ImportError": ImportError}
    return kinds.get(kind, SlideError)(message)
