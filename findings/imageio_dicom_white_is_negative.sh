#!/usr/bin/env bash
# imageio reads a DICOM image of unsigned pixels, with the commonest rescaling of all, slope 1 and intercept 0, as one
# of signed numbers of as many bits: the brighter half of the greys is negative.
#
# Expected: the stored values, as it gives them where the file has no slope and intercept, since these change nothing.
#
# Seen: 8-bit pixels 0, 100, 200, 255 are uint8 without the two attributes, and 0, 100, -56, -1 in int8 with them;
# 16-bit ones of 40000 are -25536. A slope of 2, or an intercept of -1024, gives a wider type and right values. All
# that is warned of is that this reader, the one that is taken where none is named, will be removed. A user asked
# about that line of its code in 2018. The newer reader, plugin="pydicom", is right.
#
# It hurts classifiers of ultrasound, X-rays and photographs in DICOM: what is white is darker than what is black, and
# torchvision's and scikit-image's conversions to floating point, which know the type's range, keep it so.
#
# cfcam_gpu reads DICOM by pydicom and rescales in floating point (cfcam_gpu/scans/dicom/windows.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 pydicom==3.0.2 pillow==13.0.0 imageio==2.38.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings
from pathlib import Path

import imageio
import imageio.v2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

print("imageio", imageio.__version__, "pydicom", pydicom.__version__)


Path("image").mkdir()  # imageio looks through the whole folder


def seen(values, rescaling):
    """Stored values in one row, as imageio reads them."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.ConversionType, image.SeriesNumber, image.InstanceNumber = "OT", "WSD", 1, 1
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(image, empty, "")
    for empty in ("AccessionNumber", "ReferringPhysicianName", "PatientOrientation", "Laterality"):
        setattr(image, empty, "")
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 1, len(values), 1, "MONOCHROME2"
    bits = 8 * values.dtype.itemsize
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = bits, bits, bits - 1, 0
    if rescaling is not None:
        image.RescaleSlope, image.RescaleIntercept = rescaling
        image.RescaleType = "US"
    image.PixelData = values.tobytes()
    pydicom.dcmwrite("image/image.dcm", image, enforce_file_format=True)
    read = imageio.v2.imread("image/image.dcm")
    return str(read.dtype), read.ravel().tolist()


narrow, wide = np.array([0, 100, 200, 255], np.uint8), np.array([0, 100, 40000, 65535], np.uint16)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", ResourceWarning)
    found = [seen(values, rescaling) for values in (narrow, wide) for rescaling in (None, (1, 0), (2, 0))]
names = [f"{bits} bits, {how}" for bits in (8, 16) for how in ("no rescaling", "slope 1, intercept 0", "slope 2")]
right = [narrow, narrow, 2 * narrow.astype(int), wide, wide, 2 * wide.astype(int)]
for name, expected, (dtype, values) in zip(names, right, found):
    print(f"{name}: expected {expected.tolist()}, seen {values} in {dtype}")
as_described = (
    [values == expected.tolist() for expected, (_, values) in zip(right, found)] == [True, False, True] * 2
    and found[1] == ("int8", [0, 100, -56, -1])
    and found[4] == ("int16", [0, 100, -25536, -1])
)
as_described = as_described and all("deprecated" in str(warning.message) for warning in told)
sys.exit(None if as_described else "this has changed")
PYTHON
