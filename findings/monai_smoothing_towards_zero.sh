#!/usr/bin/env bash
# MONAI's Gaussian smoothing takes what is outside an image as 0: GaussianSmooth, GaussianSharpen, their random kinds
# and Resize(anti_aliasing=True) draw the edge towards 0, whatever the values around are.
#
# Expected: an image of one value stays one, as of scipy.ndimage.gaussian_filter, scikit-image, SimpleITK and torchio.
# Resize's text on anti_aliasing says that it is scikit-image's, which reflects the image at its edges. Nothing about
# edges is in the texts, and there is no option for it.
#
# Seen: a volume of -1000, air in a CT, smoothed with the default sigma of 1 has -691 in the middle of its faces and
# -331 in its corners; sharpened -4419; halved with anti_aliasing -920 and -779. Nothing warns.
#
# It hurts networks of CT: the edges of each volume, and of each patch that is smoothed after it was cut out, are of
# fat's and lung's values where air is, and a map that finds the edges important is right about that.
#
# cfcam_gpu's own blur, a baseline of its metrics, reflects the image (cfcam_gpu/metrics/faithfulness.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import monai
import numpy as np
import torch
from monai.transforms import GaussianSharpen, GaussianSmooth, RandGaussianSmooth, Resize
from scipy.ndimage import gaussian_filter

print("monai", monai.__version__, "torch", torch.__version__)
SIDE, AIR = 32, -1000.0
volume = torch.full((1, SIDE, SIDE, SIDE), AIR)
TRANSFORMS = {
    "GaussianSmooth()": GaussianSmooth(),
    "RandGaussianSmooth": RandGaussianSmooth((1, 1), (1, 1), (1, 1), prob=1),
    "GaussianSharpen()": GaussianSharpen(),
    "Resize(anti_aliasing)": Resize((SIDE // 2,) * 3, anti_aliasing=True),
    "Resize": Resize((SIDE // 2,) * 3),
}


def seen(values):
    """The middle of the first slice, the first voxel, and the middle of all."""
    values = np.asarray(values)
    half = len(values) // 2
    return tuple(round(float(values[place])) for place in ((0, half, half), (0, 0, 0), (half, half, half)))


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {name: seen(transform(volume)[0]) for name, transform in TRANSFORMS.items()}
told = [warning for warning in told if "monai" in str(warning.filename)]
print("expected: of the face, the corner and the middle", (AIR,) * 3, "scipy's", seen(gaussian_filter(volume[0], 1)))
for name, values in found.items():
    print(f"seen, {name}: {values}")
as_described = found == {
    "GaussianSmooth()": (-691, -331, -1000),
    "RandGaussianSmooth": (-691, -331, -1000),
    "GaussianSharpen()": (-4419, -3110, found["GaussianSharpen()"][2]),
    "Resize(anti_aliasing)": (-920, -779, -1000),
    "Resize": (-1000, -1000, -1000),
}
sys.exit(None if as_described and not told else "this has changed")
PYTHON
