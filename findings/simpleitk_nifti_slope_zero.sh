#!/usr/bin/env bash
# SimpleITK, reading NIfTI by ITK, adds scl_inter to all values of a file whose scl_slope is 0.
#
# Expected: the values as they are stored, as nibabel gives them. NIfTI-1 says in "Data scaling" of its header that
# values are scaled, and the intercept added, if scl_slope is nonzero; 0 means that there is no scaling, whatever
# stands in scl_inter.
#
# Seen: stored 0, 1, 2 with scl_slope 0 and scl_inter 100 are 100, 101, 102 and of floating point. Nothing is written
# to the log. With a slope of 1 both add 100, with a slope of 0 and an intercept of 0 neither does.
#
# It hurts volumes that programs write which mean "no scaling" by the slope and leave the other field as it was: a CT
# that is stored in Hounsfield units comes 1024 too low. The same file gives a network another input by way of
# torchio, ANTs or 3D Slicer, which read by ITK, than by nilearn or MONAI, which read by nibabel.
#
# cfcam_gpu reads NIfTI by nibabel (cfcam_gpu/scans/nifti.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import struct
import sys

import nibabel
import numpy as np
import SimpleITK

print("SimpleITK", SimpleITK.Version_VersionString(), "nibabel", nibabel.__version__)
SLOPE = 112  # the place of scl_slope in the header, and scl_inter follows


def seen(slope, intercept):
    """Stored 0, 1, 2 by nibabel and by SimpleITK."""
    nibabel.save(nibabel.Nifti1Image(np.arange(3, dtype=np.int16).reshape(3, 1, 1), np.eye(4)), "a.nii")
    with open("a.nii", "r+b") as file:
        file.seek(SLOPE)
        file.write(struct.pack("<ff", slope, intercept))
    by_nibabel = nibabel.load("a.nii").get_fdata().ravel().tolist()
    return by_nibabel, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("a.nii")).ravel().tolist()


zero, one, none = seen(0, 100), seen(1, 100), seen(0, 0)
for name, (by_nibabel, by_itk) in {"0 and 100": zero, "1 and 100": one, "0 and 0": none}.items():
    print(f"slope and intercept {name}: expected {by_nibabel} (nibabel), seen {by_itk}")
stored, added = [0, 1, 2], [100, 101, 102]
sys.exit(None if (zero, one, none) == ((stored, added), (added, added), (stored, stored)) else "this has changed")
PYTHON
