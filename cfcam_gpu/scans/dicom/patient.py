"""Whose an object is, and what it was made from: all of it comes from the source's headers, and nothing else does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

import numpy as np

from ..grid import Grid
from . import places
from .placing import in_patient, place
from .source import Source
from .values import allowed, is_uid, said

if TYPE_CHECKING:
    from pydicom import Dataset

#: Every object needs these; no honest value can be made up.
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
#: Empty where the source has none, or none that DICOM allows.
_TYPE_2 = ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
_NAMES = ("PatientName", "ReferringPhysicianName")
#: Left out where the source has none, or none that DICOM allows.
_TYPE_3 = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "PatientIdentityRemoved",
    "DeidentificationMethod",
)  # fmt: skip
#: What says that the pixels lost something on their way.
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_SEXES = ("M", "F", "O")


def check(source: Source) -> None:
    """Refuse a source that no object can refer to.

    Raises
    ------
    ValueError
        If an instance lacks a UID, or has none that DICOM allows; the message names the attribute.
    """
    for header in source.headers:
        for keyword in NEEDED:
            value = str(said(header, keyword) or "")
            if not value:
                raise ValueError(f"{keyword}: missing, so that results in DICOM could not refer to this file")
            if not is_uid(value):
                raise ValueError(f"{keyword}: not a UID, so that results in DICOM could not refer to this file")


def stand_in(source: Source, grid: Grid) -> Dataset:
    """An image of the source's patient and study, of the size and place of a map: what highdicom derives objects from.

    highdicom takes a place from its sources where it is nearly the same, and asks of them what files often lack.

    Parameters
    ----------
    source : Source
    grid : Grid
        Of the map as it is written.
    """
    from pydicom import Dataset
    from pydicom.uid import SecondaryCaptureImageStorage

    first = source.headers[0]
    result = Dataset()
    for keyword in _TYPE_2:
        setattr(result, keyword, allowed(first, keyword))
    for keyword in _NAMES:
        setattr(result, keyword, None)
    for keyword in _TYPE_3:
        if (value := allowed(first, keyword)) not in (None, "", 0):
            setattr(result, keyword, value)
    if result.PatientSex not in _SEXES:
        result.PatientSex = None
    for keyword in NEEDED:
        setattr(result, keyword, str(first[keyword].value))
    result.SpecificCharacterSet = "ISO_IR 192"
    _, result.Rows, result.Columns = grid.shape
    if allowed(first, "LossyImageCompression") == "01" and all(allowed(first, keyword) for keyword in LOSSY):
        for keyword in LOSSY:
            setattr(result, keyword, first[keyword].value)
    # The references are written over, so that the kind of image only has to be one with this kind of place.
    result.SOPClassUID = SecondaryCaptureImageStorage
    if in_patient(source):
        put(result, grid, str(first.FrameOfReferenceUID), allowed(first, "PositionReferenceIndicator"))
    return result


def name(written: Dataset, header: Dataset) -> None:
    """Have an object be that patient's: at last, as highdicom warns of some names by repeating them."""
    for keyword in _NAMES:
        setattr(written, keyword, allowed(header, keyword))


def own_space(source: Source, grid: Grid) -> Grid:
    """The grid in a space that it shares with nothing, of the source's spacing where that is known."""
    if source.grid is not None:
        return grid
    return Grid(grid.shape, grid.affine @ np.diag([*(spacing(source, grid) or (1.0, 1.0, 1.0)), 1.0]))


def put(image: Dataset, grid: Grid, frame_of_reference: str, indicator: object = None) -> None:
    """Have an image lie where the first plane of `grid` does."""
    from pydicom.uid import CTImageStorage

    image.SOPClassUID = CTImageStorage
    image.FrameOfReferenceUID = frame_of_reference
    image.PositionReferenceIndicator = indicator
    measures, orientation, positions = place(grid)
    image.PixelSpacing, image.SliceThickness = measures[0].PixelSpacing, measures[0].SliceThickness
    image.ImageOrientationPatient = orientation[0].ImageOrientationPatient
    image.ImagePositionPatient = positions[0][0].ImagePositionPatient


def evidence(source: Source, model: Dataset) -> list[Dataset]:
    """The instances that were explained, each as far as a report refers to it, like the stand-in `model`."""
    from pydicom import Dataset

    found = []
    for header in source.headers:
        one = Dataset()
        one.update(model)
        for keyword in NEEDED:
            setattr(one, keyword, str(header[keyword].value))
        found.append(one)
    return found


def references(source: Source, *, frames: bool = True) -> list[Dataset]:
    """The instances that were explained, and their frame, as items of a sequence."""
    from pydicom import Dataset

    items = []
    for header in source.headers:
        item = Dataset()
        item.ReferencedSOPClassUID = str(header.SOPClassUID)
        item.ReferencedSOPInstanceUID = str(header.SOPInstanceUID)
        if frames and source.frame is not None:
            item.ReferencedFrameNumber = source.frame + 1
        items.append(item)
    return items


def laterality(header: Dataset) -> str | None:
    """The side of a paired part of the body, or None."""
    sides = [allowed(header, keyword) for keyword in ("ImageLaterality", "Laterality")]
    return next((side for side in sides if side in ("R", "L")), None)


def uid(*parts: object) -> str:
    """A UID that is the same for the same parts, and no other's."""
    return f"2.25.{uuid5(NAMESPACE_OID, repr(tuple(map(str, parts)))).int}"


def dated(written: Dataset, when: datetime) -> None:
    """Have all that was made for an object made at `when`, so that the same results are the same bytes."""
    date, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S.%f")
    written.InstanceCreationDate, written.InstanceCreationTime = date, time
    written.ContentDate, written.ContentTime = date, time
    written.SeriesDate, written.SeriesTime = date, time
    for item in written.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = f"{date}{time}"


def spacing(source: Source, grid: Grid) -> tuple[float, float, float] | None:
    """Millimetres between the voxels of a map as it is written, or None: from the place or from calibrated pixels."""
    if source.grid is not None:
        return grid.spacing
    found = places.pixel_spacing(source.headers[0], source.frame or 0)
    return None if found is None else (1.0, float(found[0]), float(found[1]))
