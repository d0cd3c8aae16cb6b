#!/usr/bin/env bash
# nibabel's slicer, which cuts an image and names the place of what is left, names a wrong one where a slice counts
# from the end, or runs backwards without a start.
#
# Expected: each voxel where it was. "It adjusts the affine", says the documentation of slicing images; counting from
# the end is what Python's slices do, and are allowed here.
#
# Seen: of 8 voxels of 2 mm whose values are their places, slicer[-3:] has the right values, 10, 12, 14, and an affine
# by which they lie at -6, -4, -2; slicer[5:], the same voxels, is right. slicer[::-1], the whole image turned, lies at
# 0, -2, ... -14, not at 14, 12, ... 0. Saved files say so, too. Nothing warns.
#
# It was reported to nibabel, and is open; the documentation shows a wrong affine of [::-1] as its example.
#
# It hurts crops that leave out so and so many slices from the end, and mirrored test images: a network's map of the
# crop lies elsewhere in the patient, by the crop's whole distance from the end of the volume.
#
# cfcam_gpu works the place of a crop out itself (cfcam_gpu/scans/grid.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 nibabel==5.4.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import nibabel
import numpy as np

print("nibabel", nibabel.__version__, "numpy", np.__version__)
SIDE, SPACING = 8, 2.0
places = SPACING * np.arange(SIDE, dtype=np.float32)
values = np.broadcast_to(places[:, None, None], (SIDE, SIDE, SIDE))
image = nibabel.Nifti1Image(values, np.diag([SPACING, SPACING, SPACING, 1]))


def off(cut):
    """How far the saved cut's voxels lie, by its affine, from where they were, in mm: the least and the most."""
    nibabel.save(image.slicer[cut], "cut.nii")
    saved = nibabel.load("cut.nii")
    apart = saved.affine[0, 3] + saved.affine[0, 0] * np.arange(saved.shape[0]) - saved.get_fdata()[:, 0, 0]
    return float(apart.min()), float(apart.max())


CUTS = {
    "5:": slice(5, None),
    "-3:": slice(-3, None),
    "-6:-2": slice(-6, -2),
    "7::-1": slice(7, None, -1),
    "::-1": slice(None, None, -1),
}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {name: off(cut) for name, cut in CUTS.items()}
print("expected: of each 0 mm, the same place")
for name, (low, high) in found.items():
    print(f"seen, slicer[{name}]: from {low} to {high} mm")
as_described = found == {
    "5:": (0, 0),
    "-3:": (-16, -16),
    "-6:-2": (-16, -16),
    "7::-1": (0, 0),
    "::-1": (-14, -14),
}
sys.exit(None if as_described and not told else "this has changed")
PYTHON
