"""What is raised of a file that can't be explained."""

import os


class UnreadableError(ValueError):
    """A file that is no image that can be explained; the message says why, without the file's name."""


class TooLargeError(UnreadableError):
    """An image of more pixels than are allowed."""


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what is there and is no file: reading a pipe would wait for ever.

    Raises
    ------
    UnreadableError
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise UnreadableError("not a regular file")
