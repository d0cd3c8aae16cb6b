#!/usr/bin/env bash
# pydicom can't give every single frame of one bit a pixel: one that reaches over one byte more than its bits would fill
# is read a byte short, and raises, where all frames at once are right.
#
# Expected: pixel_array(path, index=i) is frame i of pixel_array of the file. Frames of one bit a pixel follow each other
# without a gap, so that one may begin within a byte (PS3.5 8.1.1; Multi-frame Single Bit Secondary Capture, and
# Segmentation).
#
# Seen: of four frames of 5 x 7 pixels, 35 bits each, the third begins at bit 70 and ends in the fifth byte after that of
# its first bit. "cannot reshape array of size 34 into shape (5,7)"; the others are right.
#
# It hurts readers of long files that decode a frame at a time so as not to hold all of them.
#
# cfcam_gpu unpacks such frames itself (cfcam_gpu/scans/dicom/pixels.py).
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

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pack_bits, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameSingleBitSecondaryCaptureImageStorage, generate_uid

print("pydicom", pydicom.__version__)
frames = np.random.default_rng(0).integers(0, 2, (4, 5, 7), np.uint8)
image = Dataset()
image.file_meta = FileMetaDataset()
image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
image.SOPClassUID, image.SOPInstanceUID = MultiFrameSingleBitSecondaryCaptureImageStorage, generate_uid()
image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
image.Modality, image.ConversionType, image.SeriesNumber, image.InstanceNumber = "OT", "WSD", 1, 1
for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
    setattr(image, empty, "")
for empty in ("AccessionNumber", "ReferringPhysicianName", "PatientOrientation", "Laterality"):
    setattr(image, empty, "")
image.NumberOfFrames, image.Rows, image.Columns = frames.shape
image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 1, 1, 0, 0
image.FrameIncrementPointer, image.PageNumberVector = pydicom.tag.Tag("PageNumberVector"), [1, 2, 3, 4]
image.BurnedInAnnotation = "NO"
image.PixelData = pack_bits(frames.ravel())
image["PixelData"].VR = "OB"
pydicom.dcmwrite("image.dcm", image, enforce_file_format=True)

together = np.array_equal(pixel_array("image.dcm"), frames)
alone = []
for i, frame in enumerate(frames):
    try:
        alone.append(str(np.array_equal(pixel_array("image.dcm", index=i), frame)))
    except ValueError as error:
        alone.append(str(error))
print("all at once right:", together)
print("expected, one by one:", ["True"] * 4)
print("seen:                ", alone)
as_described = together and alone == ["True", "True", "cannot reshape array of size 34 into shape (5,7)", "True"]
sys.exit(None if as_described else "this has changed")
PYTHON
