#!/usr/bin/env bash
# ANTsPy's from_numpy makes images of unsigned numbers of all arrays of whole ones: what is negative wraps around, to
# the upper end of 32 bits.
#
# Expected: the array's values, as of floating point, and as ants.image_read gives them of files in the same types; or
# an error. Its text says that the image has the given data, and a comment of its code that a type without support is
# cast to the best there is, which would be floating point.
#
# Seen: -1000 in int16 becomes 4294966296, and so do int8, int32 and int64; 40000 in uint16, and -1000 in float32 and
# float64, stay. Nothing warns. Saved as NIfTI they are read as 4294966296, too.
#
# It hurts CT: Hounsfield units come from DICOM and NIfTI as int16, air is -1000 and brighter than all metal, and
# registration, histograms and networks go by it. Maps and labels of -1 are hit as well.
#
# cfcam_gpu keeps a volume's values in floating point (cfcam_gpu/scans/scan.py).
set -euo pipefail
export OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.3.5 nibabel==5.4.2 antspyx==0.6.3

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import ants
import nibabel
import numpy as np

print("antspyx", version("antspyx"), "nibabel", nibabel.__version__, "numpy", np.__version__)
WRAPPED = 2**32 - 1000


def seen(value, dtype):
    """Of an array of one value: the image's value, and that of the NIfTI that it is saved as."""
    image = ants.from_numpy(np.full((4, 4, 4), value, dtype))
    ants.image_write(image, "image.nii")
    return float(image.numpy()[0, 0, 0]), float(nibabel.load("image.nii").get_fdata()[0, 0, 0])


CASES = [(-1000, "int16"), (-1000, "int32"), (-1000, "int64"), (40000, "uint16"), (-1000, "float32"), (-100, "int8")]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {case: seen(*case) for case in CASES}
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), -1000, np.int16), np.eye(4)), "file.nii")
    read = float(ants.image_read("file.nii").numpy()[0, 0, 0])
told = [warning for warning in told if "ants" in str(warning.filename)]
for (value, dtype), (image, file) in found.items():
    print(f"{dtype}: expected {value}, seen {image:.0f}, and {file:.0f} as saved")
print("int16 by ants.image_read: expected -1000, seen", read)
as_described = read == -1000 and list(found.values()) == [
    (WRAPPED, WRAPPED),
    (WRAPPED, WRAPPED),
    (WRAPPED, WRAPPED),
    (40000, 40000),
    (-1000, -1000),
    (2**32 - 100, 2**32 - 100),
]
sys.exit(None if as_described and not told else "this has changed")
PYTHON
