#!/usr/bin/env bash
# litdata.optimize keeps the indices of an image with a palette and drops the palette: what StreamingDataset gives back
# is an image of mode P with no colours, and converting it gives black or nearly so.
#
# Expected: the image that the function returned, its colours too, as an RGB image comes back.
#
# It hurts data sets of screenshots, drawings and GIFs, which are often PNGs with a palette and are converted to RGB on
# the way to the model, and masks in the colours of Pascal VOC: a model sees, and is explained on, black images.
#
# cfcam_gpu does not read litdata's chunks; of other files it converts images with their palettes.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 litdata==0.2.76 pillow==13.0.0

cd "$folder"
cat > script.py <<'PYTHON'
import sys
from importlib.metadata import version

import litdata
from PIL import Image

RED, GREEN = (200, 30, 30), (30, 160, 30)


def picture(mode):
    image = Image.open("a.png")
    assert image.mode == "P"
    return {"image": image if mode == "P" else image.convert(mode)}


def main():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    image.save("a.png")
    litdata.optimize(fn=picture, inputs=["P", "RGB"], output_dir="chunks", num_workers=1, chunk_bytes="1MB")
    seen = [row["image"] for row in litdata.StreamingDataset("chunks")]
    colours = {image.mode: [image.convert("RGB").getpixel((x, 0)) for x in (0, 1)] for image in seen}
    print("litdata", version("litdata"), "pillow", Image.__version__)
    print("expected:", [RED, GREEN], "of both")
    for mode, found in colours.items():
        print(f"seen:     {mode}: {found}")
    return colours == {"P": [(0, 0, 0), (0, 0, 0)], "RGB": [RED, GREEN]}


if __name__ == "__main__":
    sys.exit(None if main() else "this has changed")
PYTHON
export HOME=$folder DATA_OPTIMIZER_CACHE_FOLDER=$folder/cache DATA_OPTIMIZER_DATA_CACHE_FOLDER=$folder/data
venv/bin/python -W ignore script.py
