#!/usr/bin/env bash
# datasets' "webdataset" looks at the first five samples of the first tar for what samples have: a class, a caption or a
# mask that only later ones have is left out everywhere, where the same in the second to fifth sample is an error.
#
# Expected: a column of the classes with None where there is none, as a sample without one gives it when the first five
# have one; or the same error, wherever the first class is.
#
# It hurts partly labelled data, and shards of which the first has images alone: the labels are there, and whoever
# trains, scores or explains gets none of them.
#
# cfcam_gpu looks at each member of a tar, and at the class of each image.
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
import os
import sys
import tarfile

import datasets
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
buffer = io.BytesIO()
Image.new("L", (2, 2)).save(buffer, "PNG")


def made(name, labelled):
    """A tar of eight images, some of which have their number as their class."""
    with tarfile.open(name, "w") as tar:
        for number in range(8):
            members = {"cls": str(number).encode()} if number in labelled else {}
            for suffix, data in (members | {"png": buffer.getvalue()}).items():
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return os.path.abspath(name)


def classes(*paths):
    try:
        rows = datasets.load_dataset("webdataset", data_files=list(paths), split="train")
        return [row.get("cls") for row in rows] if "cls" in rows.features else "no such column"
    except Exception as error:
        return type(error).__name__


none, every = made("none.tar", ()), made("every.tar", range(8))
seen = {
    "all but the last two have a class": classes(made("first.tar", range(6))),
    "all but the first two": classes(made("second.tar", range(2, 8))),
    "all but the first five": classes(made("sixth.tar", range(5, 8))),
    "all of the second tar": classes(none, every),
    "all of the first tar": classes(every, none),
}
print("expected: the classes, with None where there is none, or an error for all")
for name, found in seen.items():
    print(f"seen:     {name}: {found}")
as_described = list(seen.values()) == [
    [0, 1, 2, 3, 4, 5, None, None],
    "ValueError",
    "no such column",
    "no such column",
    [0, 1, 2, 3, 4, 5, 6, 7, *[None] * 8],
]
sys.exit(None if as_described else "this has changed")
PYTHON
