"""The images of files: the files themselves, and of DICOM the frames, called by their UIDs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..scans.dicom.files import Instance
from ..scans.dicom.source import Source, named
from . import formats, reading
from .formats import UnreadableError
from .preparation import Preparation
from .reading import Page


class Picture(NamedTuple):
    """An image in a file.

    Parameters
    ----------
    file : Path
    name : str
        By which it is told and written down: of DICOM its UID, as the name of a file often has the patient's.
    stem : str
        By which its results are called.
    frame : int
        Which frame of a file of DICOM, from 0.
    dicom : bool
        Whether it is one of DICOM.
    header : Instance or None
        Of a multi-frame file, read once for all of its frames.
    series : tuple of Path
        Of a volume of DICOM: its files.
    """

    file: Path
    name: str
    stem: str
    frame: int = 0
    dicom: bool = False
    header: Instance | None = None
    series: tuple[Path, ...] = ()

    def read(self, takes: Preparation) -> Page:
        """The image as a model takes it; see :func:`cfcam_gpu.image_files.reading.first_page`.

        Raises
        ------
        UnreadableError, TooLargeError
            As there.
        """
        if self.header is None:
            return reading.first_page(self.file, window=takes.window, frame=self.frame, takes=takes)
        try:
            with open(self.file, "rb") as file:
                return reading.first_page(self.header.over(file), window=takes.window, frame=self.frame, takes=takes)
        except OSError as error:
            raise UnreadableError(str(error.strerror)) from error


def of(files: Iterable[Path]) -> list[Picture]:
    """The images of files, in their order: one each, or of a multi-frame file of DICOM one for each frame.

    Nothing is decoded. What can't be read is a picture all the same, called by its path: whoever reads it says why.

    Parameters
    ----------
    files : iterable of Path
    """
    found: list[Picture] = []
    for file in files:
        try:
            found += _frames(file)
        except (OSError, ImportError, UnreadableError):
            found.append(Picture(file, str(file), file.stem))
    return found


def _frames(file: Path) -> list[Picture]:
    if not file.is_file():  # opening a pipe would wait for ever
        return [Picture(file, str(file), file.stem)]
    with open(file, "rb") as data:
        if formats.recognise(data.read(formats.HEAD)).name != formats.DICOM:
            return [Picture(file, str(file), file.stem)]
        instance = Instance(data)
        try:
            instance.check_frames()
        except UnreadableError:  # the last of them isn't there, as whoever reads it finds
            name = named(instance.header, None)
            return [Picture(file, name, name, instance.frames - 1, dicom=True)]
        names = [named(instance.header, frame if instance.frames > 1 else None) for frame in range(instance.frames)]
    header = instance if instance.frames > 1 else None
    return [Picture(file, name, name, frame, dicom=True, header=header) for frame, name in enumerate(names)]


def refers(source: Source | None) -> dict[str, Any]:
    """What JSON has of DICOM: the UIDs that results refer back to, and the frame, from 1; all null of what is none."""
    names = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "sop_instance": "SOPInstanceUID"}
    header: Any = {} if source is None else source.headers[0]
    uids = {f"{name}_uid": str(header.get(keyword, "")) or None for name, keyword in names.items()}
    return {**uids, "frame": None if source is None or source.frame is None else source.frame + 1}
