#!/usr/bin/env bash
# large_image gives a region of a TIFF as an array in the file's type, as long as its size is that of a level, or a
# half, a quarter and so on; of any other size it comes in 8 bits: floating point cut off to 0 to 255, signed numbers
# and those of 32 bits by their upper bits.
#
# Expected: the values at the other size, in the file's type or in floating point, as uint16 and the sizes of levels
# are given; or an error. A numpy array was asked for, which has no need of 8 bits.
#
# Seen: of a map of 1024 x 1024 in float32, 0.7 everywhere, 512 pixels are 0.7, 300 pixels are 0 in uint8; 300.5 is
# 255; 1000 in int16 is 131. Tiles of tileIterator, at the 300 pixels, are 0.7, but of int16 a 1000 is 0.0305, and of
# uint16 40000 is 0.61. Nothing warns. A comment in the code says that the scale of floating point is open.
#
# It hurts maps, probabilities and measurements beside a slide, that are read at the size of a picture or a network:
# all of a map from 0 to 1 is 0 but for what is 1, and whether it is depends on the size that was asked for.
#
# cfcam_gpu reads slides by other readers (cfcam_gpu/slides/readers.py). Its own maps, pyramids in float32, are such
# files.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6 pillow==13.0.0 scikit-image==0.26.0
pip install large-image==1.35.6 large-image-source-tifffile==1.35.6

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import large_image
import large_image_source_tifffile
import numpy as np
import tifffile
from large_image.constants import TILE_FORMAT_NUMPY

print("large-image", large_image.__version__, "tifffile", tifffile.__version__)
SIDE = 1024


def seen(value, dtype):
    """Of an image of one value: the type and the value of regions of 1024, 512 and 300 pixels, and of a tile."""
    name = f"{dtype}-{value}.tif"
    tifffile.imwrite(name, np.full((SIDE, SIDE), value, dtype), tile=(256, 256), photometric="minisblack")
    source = large_image_source_tifffile.open(name)
    sizes = [{"maxWidth": size, "maxHeight": size} for size in (SIDE, 512, 300)]
    regions = [source.getRegion(output=size, format=TILE_FORMAT_NUMPY)[0] for size in sizes]
    tile = next(source.tileIterator(output=sizes[-1], format=TILE_FORMAT_NUMPY))["tile"]
    assert all(len(np.unique(each)) == 1 for each in (*regions, tile))
    return [(str(each.dtype), round(float(each.flat[0]), 4)) for each in (*regions, tile)]


CASES = [(0.7, "float32"), (300.5, "float32"), (1000, "int16"), (40000, "uint16"), (200, "uint8")]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {case: seen(*case) for case in CASES}
told = [warning for warning in told if "large_image" in str(warning.filename)]
for (value, dtype), (whole, half, other, tile) in found.items():
    print(f"expected {value} in {dtype}; seen, whole: {whole}, half: {half}, 300: {other}, a tile at 300: {tile}")
others = [values[2] for values in found.values()]
tiles = [values[3][1] for values in found.values()]
as_described = (
    all(
        values[:2] == [(dtype, round(float(np.array(value, dtype)), 4))] * 2 for (value, dtype), values in found.items()
    )
    and others == [("uint8", 0), ("uint8", 255), ("uint8", 131), ("uint16", 40000), ("uint8", 200)]
    and tiles == [0.7, 300.5, 0.0305, 0.6104, 200]
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
