"""Headers of DICOM without pixels, and what their results refer back to: what the reader gives, made in memory."""

import warnings

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, MRImageStorage

from cfcam_gpu.scans.dicom.source import Source
from cfcam_gpu.scans.grid import Grid

ROOT = "1.2.826.0.1.3680043.8.498"


def header(kind, rows=40, columns=48, number=1, **values):
    """A header of a SOP class, of nobody."""
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = kind, f"{ROOT}.3.{number}"
    result.StudyInstanceUID, result.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    result.PatientName, result.PatientID = "Nobody^Nemo", "N-1"
    result.PatientBirthDate, result.PatientSex = "19700101", "O"
    result.StudyDate, result.StudyTime, result.StudyID = "20200102", "101112", "S1"
    result.AccessionNumber, result.ReferringPhysicianName = "A1", "Doctor^No"
    result.SeriesNumber, result.InstanceNumber = 7, number
    result.Rows, result.Columns = rows, columns
    for keyword, value in values.items():
        setattr(result, keyword, value)
    return result


def spoil(header, **values):
    """Set what DICOM doesn't allow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in values.items():
            setattr(header, keyword, value)


def grid_of(position, right, down, spacing, shape, step):
    """Of slices by DICOM's own numbers: `spacing` (between rows, between columns); `step` from slice to slice."""
    affine = np.eye(4)
    columns = [np.asarray(step, float), np.asarray(down) * spacing[0], np.asarray(right) * spacing[1], position]
    affine[:3] = np.stack(columns, axis=1)
    return Grid(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


AXIAL = ([1, 0, 0], [0, 1, 0])
SAGITTAL = ([0, 1, 0], [0, 0, -1])
OBLIQUE = ([0.8, 0.36, 0.48], [-0.6, 0.48, 0.64])


def placed(kind=CTImageStorage, directions=AXIAL, spacing=(0.75, 1.5), slices=1, **values):
    """A source in the patient: pixels that are not square, slices of 2.5 mm."""
    right, down = (np.asarray(direction, float) for direction in directions)
    step = 2.5 * np.cross(right, down)
    position = np.array([-31.5, 12.25, 104.0])
    headers = [
        header(
            kind,
            number=d + 1,
            FrameOfReferenceUID=f"{ROOT}.4",
            ImagePositionPatient=(position + d * step).tolist(),
            ImageOrientationPatient=[*right, *down],
            PixelSpacing=list(spacing),
            SliceThickness=2.5,
            **values,
        )
        for d in range(slices)
    ]
    return Source(tuple(headers), None, grid_of(position, right, down, spacing, (slices, 40, 48), step))


def without(*keywords):
    """A slice whose header lacks some elements."""
    source = placed()
    for keyword in keywords:
        delattr(source.headers[0], keyword)
    return source


def x_ray(**values):
    """A source with no place in the patient."""
    return Source((header(DigitalXRayImageStorageForPresentation, **values),), None, None)


def mr(**values):
    """An oblique slice."""
    return placed(MRImageStorage, OBLIQUE, **values)


def frame(number=2):
    """One of several frames of a file in colour that knows no place."""
    us = "1.2.840.10008.5.1.4.1.1.3.1"
    return Source((header(us, NumberOfFrames=5, PhotometricInterpretation="RGB"),), number, None)


def damage(header, keyword, value):
    """Give an element the bytes of a value that nobody has looked at."""
    tag = pydicom.tag.Tag(keyword)
    kind = pydicom.datadict.dictionary_VR(tag)
    header[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(value), value, 0, False, True)
