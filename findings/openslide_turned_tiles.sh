#!/usr/bin/env bash
# OpenSlide turns each tile of a TIFF by the file's Orientation, but leaves the tiles where they are: the picture is a
# mosaic of turned tiles. Tiles in JPEG it doesn't turn at all.
#
# Expected: the picture turned as a whole, as TIFF 6.0 says of Orientation (section 8: which of the picture's sides
# the first row and the first column are), or as it is stored, or an error; and of all compressions the same.
#
# Seen: of an image of 512 x 512 in tiles of 128, turned by half (Orientation 3), the pixel at (100, 200) is that
# stored at (27, 183). As a whole turned, it would be that at (411, 311). In JPEG it is that at (100, 200).
#
# Nothing is told. That tiles in JPEG aren't turned was reported to OpenSlide, and the other way thought to be right.
#
# It hurts pictures that were scanned or exported mirrored: what each tile shows is tissue, so that a classifier of
# tiles runs, but at seams the tissue is torn, and a map made of the tiles fits no other reader's picture.
#
# cfcam_gpu refuses a TIFF that is to be turned (cfcam_gpu/slides/samples.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6 openslide-python==1.4.7 openslide-bin==4.0.1.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import numpy as np
import openslide
import tifffile

print("OpenSlide", openslide.__library_version__, "tifffile", tifffile.__version__)
SIZE, AT = 512, (100, 200)
rows, columns = np.mgrid[:SIZE, :SIZE]
# Where a pixel is stored can be read from its colours, to 2 pixels.
pixels = np.stack([columns // 2, rows // 2, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def seen(compression, orientation):
    """Where the pixel at AT is stored, to 2 pixels."""
    turned = [(274, "H", 1, orientation, True)]
    how = {"compression": compression, "metadata": None, "extratags": turned}
    tifffile.imwrite("slide.tif", pixels, tile=(128, 128), photometric="rgb", **how)
    with openslide.OpenSlide("slide.tif") as slide:
        colours = np.asarray(slide.read_region(AT, 0, (1, 1)))[0, 0]
    return 2 * int(colours[0]), 2 * int(colours[1])


whole = {1: AT, 2: (SIZE - 1 - AT[0], AT[1]), 3: (SIZE - 1 - AT[0], SIZE - 1 - AT[1]), 4: (AT[0], SIZE - 1 - AT[1])}
tiles = {1: (100, 200), 2: (26, 200), 3: (26, 182), 4: (100, 182)}
found = {(compression, way): seen(compression, way) for compression in ("lzw", None, "jpeg") for way in whole}
for (compression, way), place in found.items():
    print(f"{compression}, Orientation {way}: expected the pixel stored at {whole[way]}, seen the one at {place}")
as_described = all(
    np.abs(np.subtract(place, AT if compression == "jpeg" else tiles[way])).max() <= 4
    for (compression, way), place in found.items()
)
sys.exit(None if as_described else "this has changed")
PYTHON
