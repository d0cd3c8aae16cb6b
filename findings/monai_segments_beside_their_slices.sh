#!/usr/bin/env bash
# MONAI's PydicomReader puts the frames of a DICOM segmentation, segment by segment, one behind the other, and leaves
# out that each frame says where it lies. highdicom's Segmentation writes no frames that are empty unless told to: a
# segment that isn't in all slices is moved.
#
# Expected: each voxel where its frame's Plane Position says (PS3.3 C.7.6.16.2.3), or an error. The standard asks for
# no frame where a segment isn't, and highdicom writes none; MONAI's text names it for how segmentations are read.
#
# Seen: a voxel of one segment in the slices at 2 and 6 mm, one of another in those at 4 and 6, of a series from 0 to
# 8 mm: read are two slices, at 6 and 4 mm by the affine, and the first segment's voxel of 2 mm lies in that at 4.
# Nothing warns. With omit_empty_frames=False all four are right.
#
# It hurts whoever trains or tests with segmentations from which empty frames were left out: masks overlap that are
# slices apart, and a map seems to be beside the lesion.
#
# cfcam_gpu reads no segmentations; those that it writes have each frame's place (cfcam_gpu/scans/dicom/objects.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 pydicom==3.0.2 highdicom==0.28.2
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import highdicom
import monai
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from monai.transforms import LoadImage
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

print("monai", monai.__version__, "highdicom", highdicom.__version__, "pydicom", pydicom.__version__)
# Segments' voxels as X, Y and height in mm.
VOXELS = {1: [(2, 1, 2.0), (3, 1, 6.0)], 2: [(0, 2, 4.0), (1, 2, 6.0)]}


def series():
    """Slices of CT at 0, 2, 4, 6 and 8 mm."""
    study, series, frame = (generate_uid() for _ in range(3))
    for number in range(5):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        image = FileDataset(None, {}, file_meta=meta)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.ImageType, image.Modality, image.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", 120
        image.PatientPosition, image.SeriesNumber, image.AcquisitionNumber = "HFS", 1, 1
        image.InstanceNumber = number + 1
        for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            setattr(image, empty, "")
        for empty in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "Manufacturer", "Laterality"):
            setattr(image, empty, "")
        image.PositionReferenceIndicator = ""
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
        image.PixelSpacing, image.SliceThickness = [1, 1], 2
        image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, -1024, "HU"
        image.PixelData = np.zeros((4, 4), np.uint16).tobytes()
        yield image


def description(number):
    return SegmentDescription(
        segment_number=number,
        segment_label=f"segment {number}",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type="MANUAL",
    )


def seen(omitted):
    """The voxels of the segments as MONAI reads them."""
    mask = np.zeros((5, 4, 4), np.uint8)
    for number, voxels in VOXELS.items():
        for x, y, height in voxels:
            mask[int(height) // 2, y, x] = number
    Segmentation(
        list(series()),
        mask,
        "BINARY",
        [description(number) for number in VOXELS],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=omitted,
    ).save_as("segmentation.dcm")
    volume = LoadImage(reader="PydicomReader")("segmentation.dcm")
    affine = volume.affine.numpy()
    found = {number: [] for number in VOXELS}
    for x, y, z, segment in np.argwhere(volume.numpy()).tolist():
        found[segment + 1].append((x, y, float(affine[2, 2] * z + affine[2, 3])))
    return {number: sorted(voxels, key=lambda voxel: voxel[2]) for number, voxels in found.items()}


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    default, full = seen(True), seen(False)
told = [str(warning.message) for warning in told if "monai" in str(warning.filename)]
told = [message for message in told if "nvImageCodec" not in message]  # that no GPU's decoder is there
print("expected, (X, Y, height in mm) of each segment:", VOXELS)
print("seen of highdicom's default:                   ", default, "with", len(told), "warnings")
print("seen of all frames:                            ", full)
as_described = full == VOXELS and default == {1: [(2, 1, 4.0), (3, 1, 6.0)], 2: VOXELS[2]}
sys.exit(None if as_described and not told else "this has changed")
PYTHON
