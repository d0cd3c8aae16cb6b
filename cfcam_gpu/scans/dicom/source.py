"""What an image of DICOM was read from: the instances, by which results refer back to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

    from ..grid import Grid


@dataclass(frozen=True, eq=False)
class Source:
    """The instances that an image or a volume was read from, without their pixels.

    Parameters
    ----------
    headers : tuple of pydicom.Dataset
        One for each slice of a volume, in the order of its grid's D; one of a single image and of a multi-frame file.
    frame : int or None
        Which frame of a multi-frame file was read, from 0; None where it has one frame, or all of them were.
    grid : Grid or None
        Of that frame, (1, H, W), or of the volume; None where the file doesn't say where it lies, as of an X-ray.
    """

    headers: tuple[Dataset, ...]
    frame: int | None
    grid: Grid | None

    @property
    def uid(self) -> str:
        """What names it: the UID of the instance, with ``.frame`` and the number from 1 behind it, or of the series.

        Results are named by it, as files' names often have the patient's.
        """
        if len(self.headers) > 1:
            return str(self.headers[0].SeriesInstanceUID)
        return named(self.headers[0], self.frame)


def named(header: Dataset, frame: int | None) -> str:
    """What an instance, or one of its frames, from 0, is called by."""
    uid = str(header.SOPInstanceUID)
    return uid if frame is None else f"{uid}.frame{frame + 1}"
