#!/usr/bin/env bash
# scipy.ndimage.zoom, at many usual sizes, gives an image whose last row, column and slice are zeros: the place of the
# last pixel, by rounding, is a little beyond the last one of the image, and outside it "constant", the default mode,
# puts 0.
#
# Expected: an image of one value stays one: by the documentation the first and the last pixel's middle stay where
# they are (grid_mode=False), so that nothing outside is asked for.
#
# Seen: of 200 everywhere, 32 to 16 gives 15 times 200 and a 0, and so do 256 to 32, 512 to 16, 384 to 192, 320 to 160,
# 600 to 300, and upwards 64 to 240, 32 to 224 or 16 to 160; with order 0, 1 and 3. 64 to 32 and 28 to 112 are right.
# Nothing warns. It was reported to SciPy of some sizes, and closed; mode="nearest" and "grid-constant" are right.
#
# It hurts pyramids and smaller volumes, as of the method "zoom" of ome-zarr, whose lower levels of a slide of 64, 600
# or 1000 pixels get a black edge, and maps that are made larger by it, as pytorch-grad-cam does in three dimensions.
#
# cfcam_gpu makes maps larger by torch, and resamples volumes by world coordinates with the edge's value to half a
# voxel outside (cfcam_gpu/scans/grid.py).
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
import scipy
import zarr
from ome_zarr.scale import Methods
from ome_zarr.writer import write_image
from scipy.ndimage import zoom

print("scipy", scipy.__version__, "ome-zarr", version("ome-zarr"), "numpy", np.__version__)
SIZES = [(32, 16), (256, 32), (512, 16), (384, 192), (320, 160), (600, 300), (64, 240), (32, 224), (16, 160)]
RIGHT = [(64, 32), (28, 112)]


def zeros(size, wanted, **how):
    """How many of the pixels are 0, of an image of 200, and whether that is the last."""
    line = zoom(np.full(size, 200.0), wanted / size, **how)
    assert len(line) == wanted
    return int((line == 0).sum()), bool(line[-1] == 0)


def level_edges(size):
    """Of an image of 200, the last pixel of each level of a pyramid."""
    write_image(np.full((size, size), 200, np.uint8), f"{size}.zarr", axes="yx", method=Methods.ZOOM)
    group = zarr.open_group(f"{size}.zarr", mode="r")
    return [int(np.asarray(group[name])[-1, -1]) for name in sorted(group.array_keys())]


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {(pair, order): zeros(*pair, order=order) for pair in SIZES + RIGHT for order in (0, 1, 3)}
told = [warning for warning in told if issubclass(warning.category, (RuntimeWarning, UserWarning))]
nearest = {pair: zeros(*pair, order=1, mode="nearest") for pair in SIZES}
cube = zoom(np.full((32, 32, 32), 200.0), 0.5, order=1)
pyramids = {size: level_edges(size) for size in (64, 600, 1000)}
print("expected: no zeros")
print("seen of order 1:", {pair: found[pair, 1][0] for pair in SIZES + RIGHT}, "with", len(told), "warnings")
print("seen of 32 x 32 x 32 to half: the last slice is", cube[-1].min(), "to", cube[-1].max())
print("seen of ome-zarr's levels, the last pixel of each:", pyramids)
as_described = (
    all(found[pair, order] == (1, True) for pair in SIZES for order in (0, 1, 3))
    and all(found[pair, order] == (0, False) for pair in RIGHT for order in (0, 1, 3))
    and all(count == (0, False) for count in nearest.values())
    and not cube[-1].any()
    and all(0 in edges and edges[0] == 200 for edges in pyramids.values())
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
