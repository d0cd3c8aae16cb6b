#!/usr/bin/env bash
# An image that Pillow opened from a file and that was then changed in place (thumbnail, ImageDraw, seek to a page) goes
# into a data set of datasets as the name of the file: what it gives back is the unchanged image, from map() too.
#
# Expected: the image that was given, 8 pixels wide, drawn upon, or the second page: that is what Image's documentation
# lets one pass, and it is what comes when the same image was opened from the same bytes without a name.
#
# It hurts whoever shrinks, marks or blacks out images on the way into a data set: overlays of explanations, redacted
# names on X-rays, thumbnails to save space. Nothing is said, and resize(), which makes a new image, works.
#
# cfcam_gpu takes images from data sets as they are stored and changes none in place.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install datasets==5.2.0 pyarrow==26.0.1 fsspec==2026.9.0 huggingface_hub==2.4.0 pillow==13.0.0 numpy==2.4.6

cd "$folder"
export HF_HOME=$folder/cache HF_HUB_OFFLINE=1
venv/bin/python -W ignore - <<'PYTHON'
import io
import sys
from pathlib import Path

import datasets
import PIL
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "pillow", PIL.__version__)
black, white = (Image.new("RGB", (32, 16), colour) for colour in ("black", "white"))
black.save("a.png")
black.save("a.tif", save_all=True, append_images=[white])


def shrunk(image):
    image.thumbnail((8, 8))
    return image


def drawn(image):
    ImageDraw.Draw(image).rectangle((0, 0, 31, 15), fill="white")
    return image


def second(image):
    image.seek(1)
    return image


def given(name, change, opening):
    """Size and first pixel of what is given, and of what the data set gives back."""
    image = change(Image.open(opening(name)))
    before = image.size, image.getpixel((0, 0))
    after = datasets.Dataset.from_dict({"image": [image]})[0]["image"]
    return before, (after.size, after.getpixel((0, 0)))


def by_bytes(name):
    return io.BytesIO(Path(name).read_bytes())


names = datasets.Dataset.from_dict({"image": ["a.png"]}).cast_column("image", datasets.Image())
mapped = names.map(lambda row: {"image": shrunk(row["image"])})[0]["image"].size
as_described = mapped == (32, 16)
for name, change in (("a.png", shrunk), ("a.png", drawn), ("a.tif", second)):
    for what, opening in (("a file", str), ("bytes", by_bytes)):
        before, after = given(name, change, opening)
        as_described &= (after == before) is (what == "bytes")
        print(f"expected: {change.__name__}, opened from {what}: {before}")
        print(f"seen:     {change.__name__}, opened from {what}: {after}")
print("expected: shrunk by map(): (8, 4)")
print("seen:     shrunk by map():", mapped)
sys.exit(None if as_described else "this has changed")
PYTHON
