#!/usr/bin/env bash
# MONAI's PatchWSIDataset, given the centres of patches, takes patches of the lower levels of a slide that aren't
# centred there: it takes half the patch's size off the place without asking what a pixel of the level is in those of
# level 0.
#
# Expected: a patch whose middle is at the location, at any level, as its text says of center_location, which is True
# unless named; and as MaskedPatchWSIDataset of the same library, of which each patch's middle is its pixel of the
# mask.
#
# Seen: patches of 64 x 64 around (512, 512) have their middle at 512, 544 and 608 of levels that are 1, 2 and 4 times
# smaller: right only at level 0. One of 256 x 256 at 16 times smaller shows tissue that is 1920 pixels beside.
# Nothing warns.
#
# It hurts classifiers of tiles with labels by points, cells or mitoses: they are trained on tiles in which the thing
# isn't in the middle, or isn't at all, and maps say that the network looks at the edge.
#
# cfcam_gpu works with rectangles of level 0, and their corners, throughout (cfcam_gpu/slides/region.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 tifffile==2026.3.3 scikit-image==0.26.0
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import monai
import numpy as np
import tifffile
from monai.data import MaskedPatchWSIDataset, PatchWSIDataset

print("monai", monai.__version__, "tifffile", tifffile.__version__)
SIZE, CENTRE, PATCH = 1024, 512, 64
rows, columns = np.mgrid[:SIZE, :SIZE]
# Where a pixel is can be read from its colours, to 4 pixels.
slide = np.stack([columns // 4, rows // 4, np.zeros_like(rows)], axis=-1).astype(np.uint8)
with tifffile.TiffWriter("slide.tif") as file:
    for step in (1, 2, 4):
        file.write(slide[::step, ::step], tile=(128, 128), photometric="rgb", subfiletype=int(step > 1), metadata=None)


def middle(level):
    """Of the patch around CENTRE at a level, in pixels of level 0."""
    sample = {"image": "slide.tif", "location": [CENTRE, CENTRE]}
    patches = PatchWSIDataset([sample], PATCH, level, include_label=False, reader="tifffile")
    patch = np.asarray(patches[0]["image"] if isinstance(patches[0], dict) else patches[0])
    return 4 * int(patch[1, PATCH // 2, PATCH // 2]), 4 * int(patch[0, PATCH // 2, PATCH // 2])


def by_mask(level):
    """How far the corner of the first of the patches of a mask of level 2 is above its pixel's middle."""
    how = {"patch_size": PATCH, "patch_level": level, "mask_level": 2, "include_label": False, "reader": "tifffile"}
    patches = MaskedPatchWSIDataset([{"image": "slide.tif"}], **how)
    return 2 - int(min(location[0] for location in (np.asarray(each["location"]) for each in patches.data)))


found = [middle(level) for level in range(3)]
masked = [by_mask(level) for level in range(3)]
print("expected: middles at", [(CENTRE, CENTRE)] * 3)
print("seen:    ", found)
print("half a patch in pixels of level 0: expected", [32, 64, 128], "seen of MaskedPatchWSIDataset", masked)
as_described = found == [(512, 512), (544, 544), (608, 608)] and masked == [32, 64, 128]
sys.exit(None if as_described else "this has changed")
PYTHON
