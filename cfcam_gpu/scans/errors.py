"""What is raised of a file that can't be explained."""


class UnreadableError(ValueError):
    """A file that is no image that can be explained; the message says why, without the file's name."""


class TooLargeError(UnreadableError):
    """An image of more pixels than are allowed."""
