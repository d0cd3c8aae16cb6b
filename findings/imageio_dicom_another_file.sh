#!/usr/bin/env bash
# imageio.v3.imread of a DICOM file looks through the file's folder, and all that are in it, for series, and gives the
# image of the first by Series Instance UID: that of another file.
#
# Expected: the image of the file that was named, as imageio.v2.imread gives it, or where this is a slice of a series,
# the series that it is of, as the text of volread says. For whole folders one names the folder.
#
# Seen: with another patient's image beside it, or in a folder below, reading the one gives the other's. All that is
# warned of is that this reader, the one that is taken where none is named, will be removed. plugin="pydicom" is
# right.
#
# It hurts classifiers of images in DICOM, of which many are in one folder: each of them gives the same input, the
# same class and the same map, and none an error.
#
# cfcam_gpu reads each file by pydicom (cfcam_gpu/scans/dicom/files.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 pydicom==3.0.2 pillow==13.0.0 imageio==2.38.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import contextlib
import io
import sys
from pathlib import Path

import imageio
import imageio.v2
import imageio.v3
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

print("imageio", imageio.__version__, "pydicom", pydicom.__version__)
ASKED, OTHER = 10, 20


def write(path, value, series):
    """A file of its own study, all of one value."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), series
    image.Modality, image.ConversionType, image.SeriesNumber, image.InstanceNumber = "OT", "WSD", 1, 1
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(image, empty, "")
    for empty in ("AccessionNumber", "ReferringPhysicianName", "PatientOrientation", "Laterality"):
        setattr(image, empty, "")
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 2, 2, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = np.full((2, 2), value, np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def values(read, path):
    with contextlib.redirect_stdout(io.StringIO()):
        return sorted(set(np.asarray(read(path)).ravel().tolist()))


found = {}
first, second = sorted([generate_uid(), generate_uid()])
for name, other in {"alone": None, "another beside": "a.dcm", "another below": "old/a.dcm"}.items():
    asked = Path(name, "b.dcm")
    write(asked, ASKED, second)
    if other:
        write(Path(name, other), OTHER, first)
    found[name] = values(imageio.v3.imread, asked), values(imageio.v2.imread, asked)
for name, (newer, older) in found.items():
    print(f"{name}: expected [{ASKED}], seen {newer} by imageio.v3, {older} by imageio.v2")
right, wrong = ([ASKED], [ASKED]), ([OTHER], [ASKED])
sys.exit(None if list(found.values()) == [right, wrong, wrong] else "this has changed")
PYTHON
