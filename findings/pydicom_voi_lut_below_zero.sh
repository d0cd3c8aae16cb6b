#!/usr/bin/env bash
# pydicom reads a VOI LUT that begins below zero as one that begins at 65336 and the like, where the file is of
# Implicit VR and the stored pixels are unsigned: apply_voi_lut then gives the first entry for every pixel.
#
# Expected: the picture that the same file in Explicit VR gives. The second value of LUT Descriptor is US or SS, and
# is signed where what goes into the table, the output of Rescale Slope and Intercept, may be negative (PS3.3
# C.11.2.1.1); Implicit VR, DICOM's default, does not write which. pydicom decides by Pixel Representation alone,
# which tells of the stored pixels. Those of CT are mostly unsigned, with an intercept of -1024.
#
# Seen: -200, 0 and 200 HU by a table of 400 entries from -200 on give 0, 32850 and 65535 of the file in Explicit VR,
# and 0, 0, 0, all black, of that in Implicit VR, of values in int32; int16 raises an OverflowError. Nothing warns.
# DCMTK's dcm2pnm shows the same picture of both.
#
# It hurts classifiers of images windowed by the files' own tables: a black image has a class, too, and its map is
# drawn.
#
# cfcam_gpu applies such tables itself, and takes the sign from what goes into them
# (cfcam_gpu/scans/dicom/windows.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 pydicom==3.0.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

print("pydicom", pydicom.__version__)


def seen(syntax):
    """Stored 824, 1024, 1224, which are -200, 0, 200 HU: what the file's descriptor is read as, and the picture."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    image.ImageType, image.Modality, image.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", 120
    image.PatientPosition = "HFS"
    image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = 1, 1, 1
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(image, empty, "")
    for empty in ("AccessionNumber", "ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator"):
        setattr(image, empty, "")
    image.Laterality = ""
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 2
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 1, 3, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, -1024, "HU"
    image.PixelData = np.array([824, 1024, 1224], np.uint16).tobytes()
    table = Dataset()
    table.add(DataElement("LUTDescriptor", "SS", [400, -200, 16]))
    table.add(DataElement("LUTData", "US", [round(entry * 65535 / 399) for entry in range(400)]))
    image.VOILUTSequence = [table]
    pydicom.dcmwrite("image.dcm", image, enforce_file_format=True)
    image = pydicom.dcmread("image.dcm")
    units = apply_modality_lut(image.pixel_array, image).astype(np.int32)
    return list(image.VOILUTSequence[0].LUTDescriptor), apply_voi_lut(units, image).ravel().tolist()


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    explicit, implicit = seen(ExplicitVRLittleEndian), seen(ImplicitVRLittleEndian)
print("expected, as in Explicit VR:", *explicit)
print("seen in Implicit VR:        ", *implicit, "with", len(told), "warnings")
as_described = explicit == ([400, -200, 16], [0, 32850, 65535]) and implicit == ([400, 65336, 16], [0, 0, 0])
sys.exit(None if as_described and not told else "this has changed")
PYTHON
