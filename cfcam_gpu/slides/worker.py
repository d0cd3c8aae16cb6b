"""What a process that reads slides runs: it answers, in JSON and bytes, what process.py asks."""

from __future__ import annotations

import json
import os
import sys
import threading
from fractions import Fraction
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from .reading import SlideReader


class Worker:
    """Answers what is asked, one thing after the other.

    Parameters
    ----------
    out : binary file
        Where answers are written.
    """

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.slide: SlideReader | None = None

    def inspect(self, path: str) -> Any:
        """Read a slide's tags."""
        from .tags import read

        self._write(read(path).as_json())

    def open(self, info: dict[str, Any]) -> None:
        """Open a slide, whose regions are read from then on."""
        from .info import SlideInfo
        from .reading import SlideReader

        self.slide = SlideReader(SlideInfo.from_json(info))
        self._write(None)

    def read(self, x: int, y: int, width: int, height: int, scale: tuple[int, int]) -> None:
        """Read a region."""
        from .region import Region

        assert self.slide is not None
        pixels = self.slide.read(Region(x, y, width, height, Fraction(*scale)))
        self._write(None, pixels)

    def answer(self, question: str, parameters: dict[str, Any]) -> None:
        """Answer a question, or say what is wrong."""
        try:
            getattr(self, question)(**parameters)
        except BrokenPipeError:  # nobody listens any more
            raise
        except Exception as error:
            self._write_error(error)

    def _write(self, value: Any, pixels: Any = None) -> None:
        head = {"value": value, "shape": None if pixels is None else pixels.shape}
        self.out.write(json.dumps(head).encode() + b"\n")
        if pixels is not None:
            self.out.write(pixels.data.cast("B"))
        self.out.flush()

    def _write_error(self, error: Exception) -> None:
        from ..scans.errors import UnreadableError
        from .errors import SlideError

        number = getattr(error, "errno", None)
        message = str(error)
        if isinstance(error, SlideError):
            kind = "SlideError"
        elif isinstance(error, UnreadableError):
            kind = "UnreadableError"
        elif isinstance(error, ImportError):
            kind = "ImportError"
        elif isinstance(error, OSError) and number is not None:
            kind, message = "OSError", error.strerror or message
        else:  # a library's own, of a file that is not as it expects
            kind, message = "SlideError", f"it can't be read: {type(error).__name__}: {message}"
        self.out.write(json.dumps({"error": {"kind": kind, "message": message, "number": number}}).encode() + b"\n")
        self.out.flush()


def main() -> None:
    """Answer what comes on the standard input until it ends."""
    # Answers have a file of their own: what libraries print would be taken for one.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of what is expected to die now and then
    except ImportError:  # Windows
        pass
    worker = Worker(out)
    questions: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=[questions], daemon=True).start()
    try:
        while True:
            worker.answer(*json.loads(questions.get()))
    except BrokenPipeError:
        os._exit(0)  # what is left in buffers is nobody's


def _listen(questions: SimpleQueue[bytes]) -> None:
    """In a thread: take what is asked, and end the process with who asks, however busy it is."""
    for line in sys.stdin.buffer:
        questions.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
