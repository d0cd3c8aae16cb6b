#!/usr/bin/env bash
# torchcam's overlay_mask squares the map before it is coloured, and a map that is a grey image in bytes, mode "L", in
# bytes: 16, 128 and 192 become 0, the coldest colour, 255 becomes 1, and 181 becomes 249, the hottest that there is. Of
# a 16-bit one nearly all is the hottest colour.
#
# Guess before it was run: as it is, from the source.
#
# Expected: "mask to be overlayed in grayscale", a PIL image (https://frgfm.github.io/torch-cam/reference/utils), so
# that what is brighter is coloured hotter, as of the same map in mode "F"; or an error, as for other arguments.
#
# Seen: from 0 to 255 the colours go up and down 127 times, and what is largest in the map is as cold as nothing.
#
# It hurts whoever reads a map back from a PNG, which has no mode "F", or turns it by torchvision's to_pil_image into
# "L", as it does of floating point without the mode that torchcam's own example names: the picture has rings of all
# colours, or is blue where the evidence is half of the largest.
#
# cfcam_gpu colours its overlays itself, from floating point (cfcam_gpu/results/colours.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 pillow==13.0.0 matplotlib==3.10.8 torchcam==0.5.0

cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import matplotlib
import numpy as np
from PIL import Image
from torchcam.utils import overlay_mask

print("torchcam", version("torchcam"), "pillow", version("pillow"), "matplotlib", matplotlib.__version__)
grey = np.arange(256, dtype=np.uint8).reshape(1, 256)
maps = {
    "F": Image.fromarray(grey / np.float32(255)),
    "L": Image.fromarray(grey),
    "I;16": Image.fromarray(grey * np.uint16(257)),
}
background = Image.new("RGB", (256, 1))
heat = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]  # each of its colours is there once


def heats(map_):
    """Of each grey, from 0 to 255, how hot it is coloured: the number of its colour."""
    colours = np.asarray(overlay_mask(background, map_, colormap="inferno", alpha=0.0))[0].astype(int)
    return np.abs(colours[:, None] - heat.astype(int)).sum(axis=-1).argmin(axis=1)


seen = {}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for mode, map_ in maps.items():
        assert map_.mode == mode
        seen[mode] = heats(map_)
for mode, found in seen.items():
    some = {number: int(found[number]) for number in (0, 16, 64, 128, 181, 192, 255)}
    falls = int((np.diff(found) < 0).sum())
    print(f"mode {mode}: expected colours {({number: int(seen['F'][number]) for number in some})}, which never fall")
    print(f"    seen {some}, which fall {falls} times")
print("warnings:", len(told))
as_described = (
    not told
    and (np.diff(seen["F"]) >= 0).all()
    and [int(seen["L"][number]) for number in (16, 128, 192, 255)] == [0, 0, 0, 1]
    and seen["L"][181] > 245
    and (np.diff(seen["L"]) < 0).sum() > 100
    and [int(seen["I;16"][number]) for number in (16, 64, 128, 192, 255)] == [255, 255, 255, 255, 1]
)
sys.exit(None if as_described else "this has changed")
PYTHON
