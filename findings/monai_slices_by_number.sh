#!/usr/bin/env bash
# MONAI's PydicomReader stacks the slices of a DICOM series by Instance Number, and names an affine as if their
# positions rose evenly from the first to the last: slices whose numbers have another order are in the wrong place.
#
# Expected: slices in the order of Image Position, or an affine that is right of them, or an error. Instance Number is
# "a number that identifies this image" (PS3.3 C.7.6.1), may be empty, and no order is promised by it; where slices
# lie is said by Image Position and Image Orientation (C.7.6.2.1.1). An inner method's text names the order, the
# reader's doesn't.
#
# Seen: slices at 0, 2, 4, 6 mm with the numbers 1, 3, 2, 4 come as those of 0, 4, 2, 6, and the affine says that they
# lie at 0, 2, 4, 6. Numbers that fall as the positions rise are right, as the affine is turned then. Nothing warns.
#
# It hurts series that were taken with gaps and then between, as of interleaved MRI, or that an archive numbered
# again: a network sees a volume whose slices are shuffled, and its map is laid on other slices than it saw.
#
# cfcam_gpu orders slices by position, and refuses uneven ones (cfcam_gpu/scans/dicom/series.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 pydicom==3.0.2
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import shutil
import sys
import warnings
from pathlib import Path

import monai
import numpy as np
import pydicom
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

print("monai", monai.__version__, "pydicom", pydicom.__version__)


def seen(numbers):
    """The values of slices, which are their heights, and the heights by the affine: of slices at 0, 2, 4, 6 mm."""
    shutil.rmtree("series", ignore_errors=True)
    Path("series").mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for place, number in enumerate(numbers):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.ImageType, image.Modality, image.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", 120
        image.PatientPosition, image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = "HFS", 1, 1, number
        for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            setattr(image, empty, "")
        for empty in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "Manufacturer", "Laterality"):
            setattr(image, empty, "")
        image.PositionReferenceIndicator = ""
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * place]
        image.PixelSpacing, image.SliceThickness = [1, 1], 2
        image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "HU"
        image.PixelData = np.full((4, 4), 2 * place, np.uint16).tobytes()
        pydicom.dcmwrite(f"series/{place}.dcm", image, enforce_file_format=True)
    volume = LoadImage(reader="PydicomReader")("series")
    step, first = volume.affine[2, 2:].tolist()
    return volume[0, 0].tolist(), [first + step * place for place in range(len(numbers))]


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    rising, falling, mixed = seen([1, 2, 3, 4]), seen([4, 3, 2, 1]), seen([1, 3, 2, 4])
told = [str(warning.message) for warning in told if "monai" in str(warning.filename)]
told = [message for message in told if "nvImageCodec" not in message]  # that no GPU's decoder is there
for name, (values, heights) in {"1 2 3 4": rising, "4 3 2 1": falling, "1 3 2 4": mixed}.items():
    print(f"numbers {name}: expected heights {values}, seen by the affine {heights}; {len(told)} warnings")
as_described = (
    rising == ([0, 2, 4, 6], [0, 2, 4, 6])
    and falling == ([6, 4, 2, 0], [6, 4, 2, 0])
    and mixed == ([0, 4, 2, 6], [0, 2, 4, 6])
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
