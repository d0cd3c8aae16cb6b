#!/usr/bin/env bash
# tiffslide gives the samples of a TIFF as they are stored, whatever the file says that they mean:
# - grey of which 0 is white comes as a negative;
# - of a palette the indices come, as if they were greys;
# - colours that were multiplied by their alpha come as an RGBA image, whose colours are not multiplied: too dark.
#
# Expected: the colours, as OpenSlide gives them, of which tiffslide says that it is a drop-in replacement; the mode
# of the image, L or RGBA, says what its values mean.
#
# Seen: a pixel that is stored as 50 comes as 50 of each; OpenSlide gives 205, the palette's (50, 205, 0), and 100
# with an alpha of one half. Nothing warns.
#
# It hurts tissue in grey or few colours, as of bilevel and annotated scans, and slides exported with alpha: black and
# white are exchanged, a classifier of tiles runs on the negative, and its map is of that.
#
# cfcam_gpu reads the tags, and turns the samples into colours itself (cfcam_gpu/slides/samples.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6 tiffslide==3.0.1
pip install openslide-python==1.4.7 openslide-bin==4.0.1.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
import openslide
import tifffile
import tiffslide

print("tiffslide", version("tiffslide"), "OpenSlide", openslide.__library_version__, "tifffile", tifffile.__version__)
STORED, HALF = 50, 128


def seen(pixels, **how):
    """The first pixel of a TIFF by tiffslide and by OpenSlide, and the modes of their images."""
    tifffile.imwrite("slide.tif", pixels, tile=(128, 128), compression="lzw", metadata=None, **how)
    found = []
    for reader in (tiffslide.TiffSlide, openslide.OpenSlide):
        with reader("slide.tif") as slide:
            image = slide.read_region((0, 0), 0, (1, 1))
        found += [image.mode, np.asarray(image).ravel().tolist()]
    return found


grey = np.full((256, 256), STORED, np.uint8)
ramp = np.arange(256, dtype=np.uint16) * 257
colours = np.stack([ramp, ramp[::-1], 0 * ramp])
half = np.concatenate([np.full((256, 256, 3), STORED, np.uint8), np.full((256, 256, 1), HALF, np.uint8)], axis=-1)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {
        "0 is black": seen(grey, photometric="minisblack"),
        "0 is white": seen(grey, photometric="miniswhite"),
        "palette": seen(grey, photometric="palette", colormap=colours),
        "colours times alpha": seen(half, photometric="rgb", extrasamples=["assocalpha"]),
    }
for name, (mode, by_tiffslide, _, by_openslide) in found.items():
    print(f"{name}: expected {by_openslide} (OpenSlide, RGBA), seen {by_tiffslide} in {mode}")
as_described = (
    found["0 is black"] == ["L", [50], "RGBA", [50, 50, 50, 255]]
    and found["0 is white"] == ["L", [50], "RGBA", [205, 205, 205, 255]]
    and found["palette"] == ["L", [50], "RGBA", [50, 205, 0, 255]]
    and found["colours times alpha"][:2] == ["RGBA", [50, 50, 50, 128]]
    and min(found["colours times alpha"][3][:3]) >= 98
)
sys.exit(None if as_described and not [each for each in told if "slide" in str(each.filename)] else "this has changed")
PYTHON
