#!/usr/bin/env bash
# ome-zarr's write_image, told to make the lower levels of a pyramid by Methods.LOCAL_MEAN, writes for sizes that
# can't be halved evenly a scale by which the levels' pixels drift away from where their means were taken.
#
# Expected: a scale and translation by which a level's pixels lie where they were taken from, as those of the default,
# Methods.RESIZE, do. In OME-Zarr's "multiscales" a level's coordinateTransformations map its pixels to physical
# coordinates, and the writer names translations of half pixels with them.
#
# Seen: of an image of 1023 pixels whose values are their places, the level of 63 pixels holds means of 16, and says
# that its pixels are 16.238 wide: the last lie 14.6 pixels, 0.9 of the level's own, further than they were. At 1024
# all are right. Nothing warns.
#
# It hurts viewers and models that work on lower levels, as of slides, whose sides are seldom a power of two: what is
# found at the right or the lower edge of a level is drawn beside it in another.
#
# cfcam_gpu's own pyramids go by halves, whatever the size: a pixel at the edge is of what is left there
# (cfcam_gpu/slides/pyramid.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 scipy==1.17.1 ome-zarr==0.18.0

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
import zarr
from ome_zarr.scale import Methods
from ome_zarr.writer import write_image

print("ome-zarr", version("ome-zarr"), "zarr", version("zarr"), "numpy", np.__version__)


def drift(size, method):
    """How far the last pixels but one of each level are from where it says that they lie, in pixels of level 0."""
    image = np.broadcast_to(np.arange(size, dtype=np.float32), (size, size))
    name = f"{size}-{method.name}.zarr"
    write_image(np.ascontiguousarray(image), name, axes="yx", method=method)
    group = zarr.open_group(name, mode="r")
    apart = []
    for level in group.attrs["ome"]["multiscales"][0]["datasets"]:
        values = np.asarray(group[level["path"]])[1]
        scale, translation = (each[each["type"]][-1] for each in level["coordinateTransformations"])
        apart.append(round(float(translation + scale * (len(values) - 2) - values[-2]), 1))
    return apart


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    cases = [(size, method) for method in (Methods.RESIZE, Methods.LOCAL_MEAN) for size in (1024, 1023)]
    found = {case: drift(*case) for case in cases}
told = [warning for warning in told if "ome_zarr" in str(warning.filename)]
for (size, method), apart in found.items():
    print(f"{size} pixels by {method.name}: expected", [0.0] * len(apart), "seen", apart)
as_described = (
    all(apart == [0] * 5 for case, apart in found.items() if case != (1023, Methods.LOCAL_MEAN))
    and found[1023, Methods.LOCAL_MEAN][0] == 0
    and found[1023, Methods.LOCAL_MEAN][-1] > 14
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
