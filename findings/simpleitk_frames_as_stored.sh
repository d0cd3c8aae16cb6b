#!/usr/bin/env bash
# SimpleITK reads a multi-frame file of DICOM as if all frames were like the first and lay in the order of the file:
# - where frames have slopes of their own, all are rescaled by the first one's;
# - where frames aren't stored in the order of their positions, they stay in the file's order, and the spacing is 1 mm
#   in all directions, in the plane of the pixels, too.
#
# Expected: the values in their units, and frames where their positions are, or an error. Pixel Value Transformation
# and Plane Position may be each frame's own (PS3.3 C.7.6.16.2), and no attribute is bound to the order of frames;
# their Dimension Index Values and positions tell where they belong (C.7.6.17).
#
# Seen: of a series that highdicom made an enhanced file of, frames of 104, 102, 100 at slopes of 0.5, 2, 1 are 52,
# 51, 50, not 52, 204, 100. The frames at 4, 0 and 2 mm, in that order, come in it, with spacing (1, 1, 1); in order,
# with (0.75, 0.5, 2). Nothing is written to the log.
#
# It hurts volumes of newer scanners and archives, read by way of it for a network in three dimensions: slices are in
# no unit, or neighbours are none and all sizes are wrong.
#
# cfcam_gpu rescales by each frame's groups and orders frames by position (cfcam_gpu/scans/dicom/series.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 pydicom==3.0.2 highdicom==0.28.2 SimpleITK==2.5.7

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import highdicom
import numpy as np
import SimpleITK
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

print("SimpleITK", SimpleITK.Version_VersionString(), "highdicom", highdicom.__version__)


def series(slopes):
    """Slices of CT at 0, 2, 4 mm, all of one value, 100 and the height."""
    study, series, frame = (generate_uid() for _ in range(3))
    for number, slope in enumerate(slopes):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        image = FileDataset(None, {}, file_meta=meta)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.ImageType, image.Modality, image.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", 120
        image.PatientPosition, image.SeriesNumber, image.AcquisitionNumber = "HFS", 1, 1
        image.InstanceNumber = number + 1
        for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
            setattr(image, empty, "")
        for empty in ("ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator", "Laterality"):
            setattr(image, empty, "")
        for event in ("Study", "Series", "Acquisition", "Content"):
            setattr(image, f"{event}Date", "20200101")
            setattr(image, f"{event}Time", "120000")
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
        image.PixelSpacing, image.SliceThickness = [0.5, 0.75], 2
        image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 2, 2, 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = slope, 0, "HU"
        image.PixelData = np.full((2, 2), 100 + 2 * number, np.uint16).tobytes()
        yield image


def seen(slopes, order=None):
    """An enhanced file of the slices, in another order if asked: positions, right values, those read, spacing."""
    file = LegacyConvertedEnhancedCTImage(list(series(slopes)), generate_uid(), 2, generate_uid(), 1)
    frames = file.pixel_array
    if order:
        groups = file.PerFrameFunctionalGroupsSequence
        file.PerFrameFunctionalGroupsSequence = [groups[place] for place in order]
        file.PixelData = frames[order].tobytes()
    file.save_as("image.dcm")
    groups = file.PerFrameFunctionalGroupsSequence
    heights = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    right = [(100 + height) * slopes[int(height) // 2] for height in heights]
    image = SimpleITK.ReadImage("image.dcm")
    return heights, right, SimpleITK.GetArrayFromImage(image)[:, 0, 0].tolist(), image.GetSpacing()


plain, slopes, order = seen([2, 2, 2]), seen([1, 2, 0.5]), seen([1, 1, 1], [0, 2, 1])
for name, (heights, right, found, spacing) in {"one slope": plain, "three slopes": slopes, "order": order}.items():
    right = [right[place] for place in np.argsort(heights)[::-1]]
    print(f"{name}, frames stored at {heights} mm")
    print(f"expected: values {right}, from above or below, spacing (0.75, 0.5, 2.0)")
    print(f"seen:     values {found}, spacing {spacing}")
as_described = (
    plain == ([4, 2, 0], [208, 204, 200], [208, 204, 200], (0.75, 0.5, 2))
    and slopes == ([4, 2, 0], [52, 204, 100], [52, 51, 50], (0.75, 0.5, 2))
    and order == ([4, 0, 2], [104, 100, 102], [104, 100, 102], (1, 1, 1))
)
sys.exit(None if as_described else "this has changed")
PYTHON
