#!/usr/bin/env bash
# MONAI's NrrdReader turns a file's space into that of its affines, right-anterior-superior, only where it is written
# out as "left-posterior-superior": of "LPS", and of "left-anterior-superior", the affine stays as it is in the file.
#
# Expected: the place that SimpleITK and 3D Slicer read of the same file. NRRD's definition of "space" gives each name
# and its three letters as one ("left-posterior-superior" or "LPS"). affine_lps_to_ras, on by default, is there "to be
# consistent with NibabelReader"; an inner method's text tells of other spaces, the reader's doesn't.
#
# Seen: a voxel at (-10, -20, 30) in RAS is there with the name written out, and at (10, 20, 30) with "LPS"; of "LAS"
# it is mirrored. Saved as NIfTI by SaveImage and read again it still is. Nothing warns.
#
# It hurts volumes and segmentations of programs that write the short name: image and labels of two kinds of files
# lie turned to each other by half around the body's axis, left is right, and so is a map's place in the patient.
#
# cfcam_gpu reads DICOM and NIfTI, of which each has one space (cfcam_gpu/scans/grid.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 nibabel==5.4.2 pynrrd==1.1.3 SimpleITK==2.5.7
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import monai
import nibabel
import nrrd
import numpy as np
import SimpleITK
from monai.transforms import LoadImage, SaveImage

print("monai", monai.__version__, "pynrrd", nrrd.__version__, "SimpleITK", SimpleITK.Version_VersionString())
ORIGIN = {  # of a voxel at (-10, -20, 30) in RAS
    "left-posterior-superior": (10, 20, 30),
    "LPS": (10, 20, 30),
    "right-anterior-superior": (-10, -20, 30),
    "RAS": (-10, -20, 30),
    "left-anterior-superior": (10, -20, 30),
    "LAS": (10, -20, 30),
}


def places(space):
    """Where SimpleITK, MONAI, and a NIfTI that MONAI wrote say that the first voxel is, in RAS."""
    header = {"space": space, "space directions": np.eye(3), "space origin": ORIGIN[space]}
    nrrd.write("volume.nrrd", np.zeros((2, 3, 4), np.float32), header)
    x, y, z = SimpleITK.ReadImage("volume.nrrd").GetOrigin()
    volume = LoadImage(reader="NrrdReader", ensure_channel_first=True)("volume.nrrd")
    SaveImage("saved", output_postfix="", separate_folder=False, resample=False, print_log=False)(volume)
    saved = nibabel.load("saved/volume.nii.gz")
    return (-x, -y, z), tuple(volume.affine[:3, 3].tolist()), tuple(saved.affine[:3, 3].tolist())


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {space: places(space) for space in ORIGIN}
told = [str(warning.message) for warning in told if "monai" in str(warning.filename)]
told = [message for message in told if "nvImageCodec" not in message]  # that no GPU's decoder is there
for space, (itk, read, saved) in found.items():
    print(f"{space}: expected (-10, -20, 30), seen {itk} by SimpleITK, {read} by MONAI, {saved} as saved by it")
RIGHT = (-10, -20, 30)
WRONG = {"LPS": (10, 20, 30), "left-anterior-superior": (10, -20, 30), "LAS": (10, -20, 30)}
as_described = all(
    itk == RIGHT and read == WRONG.get(space, RIGHT) == saved for space, (itk, read, saved) in found.items()
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
