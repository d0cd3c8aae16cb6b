"""Files of DICOM written by the tests, of a patient whose name must be nowhere but in them."""

import io

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498"
#: What of the patient is in each file.
PATIENT = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PAT-4711",
    "PatientBirthDate": "19640812",
    "AccessionNumber": "ACC-0815",
    "ReferringPhysicianName": "Quack^Doktor",
    "InstitutionName": "Klinik Nirgendwo",
    "PatientComments": "secretremark",
}


def dataset(values, *, number=1, series=1, **elements):
    """A CT slice of (H, W) values, or several frames, (N, H, W); or colours, (H, W, 3) of 8 or 16 bits."""
    values = np.asarray(values)
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = CTImageStorage, f"{ROOT}.3.{series}.{number}"
    result.StudyInstanceUID, result.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2.{series}"
    result.Modality, result.InstanceNumber = "CT", number
    for keyword, value in PATIENT.items():
        setattr(result, keyword, value)
    colour = values.ndim >= 3 and values.shape[-1] == 3
    result.SamplesPerPixel = 3 if colour else 1
    result.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        result.PlanarConfiguration = 0
    result.Rows, result.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    if values.ndim - colour > 2:
        result.NumberOfFrames = len(values)
    if values.dtype.kind == "f":
        result.BitsAllocated = 32
        result.FloatPixelData = values.astype("<f4").tobytes()
    else:
        result.BitsAllocated = result.BitsStored = values.dtype.itemsize * 8
        result.HighBit = result.BitsStored - 1
        result.PixelRepresentation = int(values.dtype.kind == "i")
        data = values.astype(values.dtype.newbyteorder("<")).tobytes()
        result.PixelData = data + bytes(len(data) % 2)
        result["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(result, keyword, value)
    return result


def encoded(data, syntax=ExplicitVRLittleEndian):
    """The bytes of a file."""
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
    )
    file = io.BytesIO()
    dcmwrite(file, data, enforce_file_format=True)
    return file.getvalue()


def written(path, values, **elements):
    """A file at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(dataset(values, **elements)))
    return path


def item(**elements):
    """An item of a sequence."""
    result = Dataset()
    for keyword, value in elements.items():
        setattr(result, keyword, value)
    return result


def placed(z, *, right=(1, 0, 0), down=(0, 1, 0), spacing=(0.5, 0.25), origin=(10.0, 20.0, 30.0)):
    """Elements that say where a slice lies: `z` millimetres from `origin` along its normal."""
    normal = np.cross(right, down)
    return {
        "ImagePositionPatient": (np.asarray(origin) + z * normal).round(6).tolist(),
        "ImageOrientationPatient": [*map(float, right), *map(float, down)],
        "PixelSpacing": list(spacing),
    }
