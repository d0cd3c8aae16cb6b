#!/usr/bin/env bash
# MONAI's SaveImage(output_ext=".png", scale=65535) writes pictures of 8 bits that have the low bytes of the 16-bit
# values: a smooth image comes out as stripes.
#
# Expected: a PNG of 16 bits: scale's text says that 65535 is "[0, 65535] (uint16)", without another option. Its own
# preset for PNG sets the type to uint8, after the scaling, unless output_dtype is uint16 or None; the default,
# float32, isn't.
#
# Seen: 0, 1/7, 2/7, ..., 1 are written as 0, 146, 36, 182, 72, 218, 108, 255. With output_dtype=np.uint16, too, they
# are 0, 9362, ..., 65535 in 16 bits. With scale=255 the values are right. Nothing warns.
#
# It hurts maps and images that are saved in 16 bits so that nothing is lost: the file opens, and what it shows is
# noise between 0 and 255, of which a viewer can't tell that it is no map.
#
# cfcam_gpu writes its pictures of maps itself, from uint8 (cfcam_gpu/results).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 pillow==13.0.0
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import monai
import numpy as np
import PIL
import torch
from monai.transforms import SaveImage
from PIL import Image

print("monai", monai.__version__, "pillow", PIL.__version__)
STEPS = 8
ramp = torch.linspace(0, 1, STEPS).reshape(1, STEPS, 1).repeat(1, 1, 2)


def seen(scale, **how):
    SaveImage(".", f"{scale}{len(how)}", ".png", scale=scale, separate_folder=False, print_log=False, **how)(
        ramp, meta_data={"filename_or_obj": "ramp"}
    )
    with Image.open(f"ramp_{scale}{len(how)}.png") as image:
        return image.mode, np.asarray(image)[0].tolist()


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    narrow, wide, asked = seen(255), seen(65535), seen(65535, output_dtype=np.uint16)
right = [step * 65535 // (STEPS - 1) for step in range(STEPS)]
print("expected of scale=65535: ", right, "in 16 bits")
print("seen:                    ", *wide)
print("with output_dtype=uint16:", *asked)
as_described = (
    narrow == ("L", [step * 255 // (STEPS - 1) for step in range(STEPS)])
    and wide == ("L", [value % 256 for value in right])
    and asked == ("I;16", right)
)
told = [warning for warning in told if "monai" in str(warning.filename)]
sys.exit(None if as_described and not told else "this has changed")
PYTHON
