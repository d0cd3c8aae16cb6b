#!/usr/bin/env bash
# SimpleITK's ImageSeriesReader takes the type of all slices from the first one's slope and intercept. Where that is
# whole and later ones are fractions, these are cut off; where the first gives unsigned numbers and later ones
# negative numbers or larger ones, these wrap around. Nothing is written to the log.
#
# Expected: each slice in the units of its own Rescale Slope and Intercept, as sitk.ReadImage gives it, or an error.
# The two are attributes of the single image (PS3.3 C.11.1), a PET series has another slope for each slice (C.8.9.4),
# and PET scanners write them so.
#
# Seen: 101 at slopes of 1, 0.5, 0.25 gives 101, 50, 25, not 25.25. At intercepts of 0, -1024, 0 it gives 101, 64613,
# 101: a slice of -923, nearly air, is brighter than all metal.
#
# The fractions were reported to SimpleITK as a bug and confirmed.
#
# It hurts whoever loads series by way of it, as torchio does: one slice of noise or of white in a volume is what a
# network looks at, and what its map then shows.
#
# cfcam_gpu rescales each slice by itself, to floating point (cfcam_gpu/scans/dicom/windows.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 pydicom==3.0.2 SimpleITK==2.5.7

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

print("SimpleITK", SimpleITK.Version_VersionString(), "pydicom", pydicom.__version__)
STORED = 101
study, series, frame = (generate_uid() for _ in range(3))


def write(path, number, slope, intercept):
    """A slice of CT, all of one value."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
    image.ImageType, image.Modality, image.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", 120
    image.PatientPosition = "HFS"
    image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = 1, 1, number
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(image, empty, "")
    for empty in ("AccessionNumber", "ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator"):
        setattr(image, empty, "")
    image.Laterality = ""
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
    image.PixelSpacing, image.SliceThickness = [1, 1], 2
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 2, 2, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = slope, intercept, "HU"
    image.PixelData = np.full((2, 2), STORED, np.uint16).tobytes()
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def values(image):
    return SimpleITK.GetArrayFromImage(image)[:, 0, 0].tolist()


as_described = True
wrong = {((1, 0), (0.5, 0), (0.25, 0)): [101, 50, 25], ((1, 0), (1, -1024), (1, 0)): [101, 64613, 101]}
for case, (scalings, described) in enumerate(wrong.items()):
    Path(f"{case}").mkdir()
    files = [f"{case}/{number}.dcm" for number in range(3)]
    for number, (file, scaling) in enumerate(zip(files, scalings)):
        write(file, number, *scaling)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case)))
    whole = values(reader.Execute())
    single = [values(SimpleITK.ReadImage(file))[0] for file in files]
    right = [STORED * slope + intercept for slope, intercept in scalings]
    print(f"slopes and intercepts {scalings}: expected {right}")
    print(f"seen: {single} of the files, {whole} of the series")
    as_described = as_described and single == right and whole == described
sys.exit(None if as_described else "this has changed")
PYTHON
