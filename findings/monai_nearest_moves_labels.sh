#!/usr/bin/env bash
# MONAI's Resize and Zoom with mode="nearest" take voxels that are not the nearest to the places that their own affine
# names, so that labels are moved against their image, and both say that they lie in the same place.
#
# Expected: labels where the image is, to half a voxel of the larger grid. The affine of the result, that of "area",
# "trilinear" and "nearest" alike, puts the middles of the first and the last voxel half a voxel within the edges.
#
# Seen: an image whose values are the places of its voxels in mm, 2 mm each, made 4 times smaller, has the right
# places with "area", and with "nearest" values that are 3 mm, one and a half voxels, too small; at 8 times smaller, 7
# mm. "nearest-exact" is right to half a voxel. Nothing warns. The mode is torch's, which documents that it is of an
# old library's kind; the affine is MONAI's.
#
# It hurts networks in three dimensions that are trained on smaller volumes: "nearest" is the mode that MONAI's
# examples name for labels. Their labels are up to half a voxel of the network's off, always in one direction, and a
# map that is compared with them in the file's space seems to be wrong.
#
# cfcam_gpu resamples by world coordinates of voxels' middles (cfcam_gpu/scans/grid.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import monai
import torch
from monai.data import MetaTensor
from monai.transforms import Resize, Zoom

print("monai", monai.__version__, "torch", torch.__version__)
SIDE, SPACING = 16, 2.0
places = SPACING * torch.arange(SIDE)
affine = torch.diag(torch.tensor([SPACING, SPACING, SPACING, 1]))
image = MetaTensor(places.reshape(1, SIDE, 1, 1).repeat(1, 1, SIDE, SIDE), affine=affine)


def errors(transform):
    """How far the values, which are places along X, are from where the affine says that the voxels lie, in mm."""
    result = transform(image)
    lie = result.affine[0, 3] + result.affine[0, 0] * torch.arange(result.shape[1])
    apart = result.as_tensor()[0, :, 0, 0] - lie
    return round(apart.min().item(), 3), round(apart.max().item(), 3)


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {mode: errors(Resize((4, 4, 4), mode=mode)) for mode in ("area", "trilinear", "nearest-exact", "nearest")}
    found["nearest, 8 times"] = errors(Resize((2, 2, 2), mode="nearest"))
    found["nearest, Zoom"] = errors(Zoom(0.25, mode="nearest", keep_size=False))
print("expected: of each from", -SPACING / 2, "to", SPACING / 2, "mm, half a voxel of the image")
for mode, (low, high) in found.items():
    print(f"seen, {mode}: from {low} to {high} mm")
as_described = found == {
    "area": (0, 0),
    "trilinear": (0, 0),
    "nearest-exact": (1, 1),
    "nearest": (-3, -3),
    "nearest, 8 times": (-7, -7),
    "nearest, Zoom": (-3, -3),
}
told = [warning for warning in told if "monai" in str(warning.filename)]
sys.exit(None if as_described and not told else "this has changed")
PYTHON
