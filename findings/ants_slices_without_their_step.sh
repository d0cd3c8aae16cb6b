#!/usr/bin/env bash
# ANTsPy's images, sliced with a step, leave the step out: image[::2] is the whole image.
#
# Expected: every second slice, as of the image's array, with twice the spacing; or an error, as there is one for a
# slice that would run backwards by its ends.
#
# Seen: of 16 voxels of 2 mm along each axis, image[::2, ::2, ::2] has 16, and is the image itself; image[2:10:4] is
# image[2:10]; and image[::-1], which is to turn it, isn't turned. Of image.numpy() all are as they should be. Setting
# values by image[::2] = 0 does go by the step. Nothing warns.
#
# It hurts volumes that are made smaller or mirrored so for a network, as in averages over mirrored inputs: the mirror
# image is the image, and says that the network is symmetric.
#
# cfcam_gpu does not use it.
set -euo pipefail
export OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.3.5 antspyx==0.6.3

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import ants
import numpy as np

print("antspyx", version("antspyx"), "numpy", np.__version__)
values = np.arange(16**3, dtype=np.float32).reshape(16, 16, 16)
image = ants.from_numpy(values, spacing=(2.0, 2.0, 2.0))
CUTS = {
    "[2:10]": np.s_[2:10, :, :],
    "[::2, ::2, ::2]": np.s_[::2, ::2, ::2],
    "[2:10:4]": np.s_[2:10:4, :, :],
    "[::-1]": np.s_[::-1, :, :],
}
UNSTEPPED = {"[::2, ::2, ::2]": np.s_[:, :, :], "[2:10:4]": np.s_[2:10, :, :], "[::-1]": np.s_[:, :, :]}


def same(cut, other):
    """Whether the image's cut has the values of the array's other."""
    return bool(np.array_equal(image[cut].numpy(), values[other]))


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    right = {name: same(cut, cut) for name, cut in CUTS.items()}
    unstepped = {name: same(CUTS[name], other) for name, other in UNSTEPPED.items()}
    halved = image[CUTS["[::2, ::2, ::2]"]]
    emptied = image.clone()
    emptied[::2, :, :] = 0
told = [warning for warning in told if "ants" in str(warning.filename)]
print("expected of [::2, ::2, ::2]: (8, 8, 8), spacing 4; seen:", halved.shape, "spacing", halved.spacing[0])
print("the array's values: expected", dict.fromkeys(CUTS, True), "seen", right)
as_described = (
    right == {"[2:10]": True, "[::2, ::2, ::2]": False, "[2:10:4]": False, "[::-1]": False}
    and all(unstepped.values())
    and halved.spacing == (2, 2, 2)
    and emptied.numpy()[1::2].all()
    and not emptied.numpy()[::2].any()
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
