"""An image of a source that is not read yet, and where its bytes are."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..image_files import formats
from .files import Files


class Place(Protocol):
    """Where an image's bytes are, if it has no file of its own."""

    def read(self, files: Files) -> bytes:
        """The bytes.

        Raises
        ------
        OSError, ValueError
            If they can't be had; the message says why.
        """
        ...


class Item(NamedTuple):
    """An image that is not read yet.

    Parameters
    ----------
    source : str
        Its name in the manifest.
    size : int or None
        In bytes, where it is known without reading the image.
    changed : str
        When it was changed, as far as its file system tells: a time, an ETag.
    target : int, str or None
        As the source has it, and a class index at last.
    place : Place or None
        None: `source` is the name of its file.
    error : str or None
        Why there is nothing to be read.
    frame : int or None
        Which frame of a multi-frame file of DICOM, from 0.
    files : tuple of str
        Of a volume: the names of its files.
    """

    source: str
    size: int | None = None
    changed: str = ""
    target: int | str | None = None
    place: Place | None = None
    error: str | None = None
    frame: int | None = None
    files: tuple[str, ...] = ()


def is_image(head: bytes) -> bool:
    """Whether a file that begins so, as far as :data:`cfcam_gpu.image_files.formats.HEAD`, is an image that is read."""
    try:
        formats.recognise(head)
    except formats.UnreadableError:
        return False
    return True


def plain_text(value: str) -> str:
    """A text as Parquet takes it: file names hold what is not Unicode, too."""
    return value.encode(errors="replace").decode()
