#!/usr/bin/env bash
# Pillow opens TIFFs as tifffile, and so most scientific tools, write them, and gives other pixels without a word:
# - 16-bit RGB in planes, not compressed: the bytes of the first rows of each plane, as if they were 8-bit pixels;
# - grey and alpha in planes, with deflate: an alpha of 0 everywhere, so an image that nothing is seen of;
# - big-endian 32-bit integers and floats with deflate: their bytes in the wrong order;
# - 16-bit grey whose tag says that 0 is white: not inverted, as 8-bit grey is;
# - signed 8-bit grey: -1 is 255.
#
# Expected: the pixels that tifffile itself reads, less precise where Pillow has no mode for them, or an error; Pillow's
# documentation says that images whose channels are in planes are read, and 8-bit ones are.
#
# It hurts whoever feeds microscopy, satellite or X-ray images to a model by way of Pillow, as torchvision's
# ImageFolder and datasets' Image do: nothing fails, and what is classified and explained is noise or a negative.
#
# cfcam_gpu reads the tags itself and refuses what Pillow misreads (cfcam_gpu/photographs/tiff.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import io
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

print("pillow", PIL.__version__, "tifffile", tifffile.__version__)


def both(pixels, **how):
    """The first values of a TIFF by tifffile, the channels last, and by Pillow; the latter's mode."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    file.seek(0)
    right = tifffile.imread(file)
    right = np.moveaxis(right, 0, -1) if how.get("planarconfig") == "separate" else right
    file.seek(0)
    try:
        with Image.open(file) as image:
            return right.ravel()[:6].tolist(), np.asarray(image).ravel()[:6].tolist(), image.mode
    except Exception as error:
        return right.ravel()[:6].tolist(), type(error).__name__, None


planes, deflate = {"planarconfig": "separate"}, {"compression": "zlib"}
rgb = np.arange(12, dtype=np.uint16).reshape(3, 2, 2) * 5000
alpha = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
grey = np.array([[1, 2], [3, 4]])
big = {"photometric": "minisblack", "byteorder": ">"}
ends = np.array([[0, 65535]], np.uint16)
seen = {
    "8-bit RGB in planes": both((rgb >> 8).astype(np.uint8), photometric="rgb", **planes),
    "16-bit RGB in planes": both(rgb, photometric="rgb", **planes),
    "grey and alpha in planes": both(np.array([[[10, 20]], [[255, 200]]], np.uint8), **alpha, **planes, **deflate),
    "big-endian int32": both(grey.astype(np.int32), **big),
    "the same with deflate": both(grey.astype(np.int32), **big, **deflate),
    "big-endian float32": both(grey.astype(np.float32), **big),
    "the same with deflate ": both(grey.astype(np.float32), **big, **deflate),
    "8-bit grey, 0 is white": both((ends >> 8).astype(np.uint8), photometric="miniswhite"),
    "16-bit grey, 0 is white": both(ends, photometric="miniswhite"),
    "signed grey": both(np.array([[-1, 1]], np.int8), photometric="minisblack"),
}
print("expected: what tifffile reads (where 0 is white: the negative of it), to the precision of the mode; or an error")
for name, (right, pillow, mode) in seen.items():
    print(f"seen:     {name.strip()}: tifffile {right}, Pillow {pillow} in mode {mode}")
one, two, three, four = ("big-endian int32", "the same with deflate", "big-endian float32", "the same with deflate ")
swapped = grey.astype(">i4").view("<i4").ravel().tolist()
by_bytes = [list(plane.tobytes()[:4]) for plane in rgb]
as_described = (
    seen["8-bit RGB in planes"][0] == seen["8-bit RGB in planes"][1]
    and seen["16-bit RGB in planes"][1:] == ([plane[i] for i in (0, 1) for plane in by_bytes], "RGB")
    and seen["grey and alpha in planes"][1:] == ([10, 0, 20, 0], "LA")
    and [seen[name][1] == [1, 2, 3, 4] for name in (one, two, three, four)] == [True, False, True, False]
    and seen[two][1:] == (swapped, "I")
    and seen[four][2] == "F"
    and seen["8-bit grey, 0 is white"][1] == [255, 0]
    and seen["16-bit grey, 0 is white"][1:] == ([0, 65535], "I;16")
    and seen["signed grey"][1:] == ([255, 1], "L")
)
sys.exit(None if as_described else "this has changed")
PYTHON
