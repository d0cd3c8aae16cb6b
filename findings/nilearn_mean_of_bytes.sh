#!/usr/bin/env bash
# nilearn.image.mean_img of a list of images whose voxels are whole numbers adds them up in their own type, which
# wraps around, and divides the rest: the mean of two equal images is another image.
#
# Expected: the mean, as of the same images in one file with a fourth axis, and as of numpy.mean.
#
# Seen: two images of 200 in uint8 have a mean of 72, two of 30000 in int16 one of -2768. In one 4-D image it is 200
# and 30000. Nothing warns.
#
# It hurts mean volumes and mean maps over a set of images, for which it is there: labels and masks are kept in uint8,
# CT and MRI in int16. How often each voxel was marked in more than 255 masks of ones is wrong, too.
#
# cfcam_gpu does not use it; its own sums are in floating point.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 nibabel==5.4.2 nilearn==0.14.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import nibabel
import nilearn
import numpy as np
from nilearn import image

print("nilearn", nilearn.__version__, "nibabel", nibabel.__version__)


def means(value, dtype):
    """Of two equal images, as a list and as one with a fourth axis."""
    one = nibabel.Nifti1Image(np.full((2, 2, 2), value, dtype), np.eye(4))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        both = image.mean_img([one, one]), image.mean_img(image.concat_imgs([one, one]))
    assert not told, [str(warning.message) for warning in told]
    return [float(np.asarray(mean.dataobj)[0, 0, 0]) for mean in both]


found = {(value, dtype): means(value, dtype) for value, dtype in ((200, "uint8"), (30000, "int16"), (200, "float32"))}
for (value, dtype), (of_list, of_one) in found.items():
    print(f"{dtype}: expected {value}, seen {of_list} of a list, {of_one} of one image with four axes")
as_described = list(found.values()) == [[72, 200], [-2768, 30000], [200, 200]]
sys.exit(None if as_described else "this has changed")
PYTHON
