#!/usr/bin/env bash
# datasets loads another folder than the one it is given, if the name of that one has brackets: of "photos[1]" it gives
# the images of "photos1" that lies beside it. Without such a neighbour it says that the folder is empty.
#
# Expected: the images of the folder that data_dir names. It is documented as a folder whose files are all referenced,
# not as a pattern: what is appended to it is one.
#
# It hurts whoever keeps versions, sites or batches in folders with such names, as download managers write them for a
# second copy: the first copy's images are trained and scored in place of the second's.
#
# cfcam_gpu takes a SOURCE that exists for what it is, and only else for a pattern.
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
import sys
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)


def made(name, image):
    Path(name, "cat").mkdir(parents=True)
    Image.new("L", (2, 2)).save(Path(name, "cat", image))
    return str(Path(name).absolute())


def found(folder):
    try:
        images = datasets.load_dataset("imagefolder", data_dir=folder, split="train")
        images = images.cast_column("image", datasets.Image(decode=False))
        return [str(Path(row["image"]["path"]).relative_to(Path.cwd())) for row in images]
    except Exception as error:
        return type(error).__name__


alone, beside = made("scans[1]", "a.png"), made("photos[1]", "a.png")
made("photos1", "b.png")
seen = {"photos (1)": found(made("photos (1)", "a.png")), "scans[1]": found(alone), "photos[1]": found(beside)}
print("expected: cat/a.png in the folder that is named")
for name, images in seen.items():
    print(f"seen:     {name}: {images}")
as_described = list(seen.values()) == [["photos (1)/cat/a.png"], "EmptyDatasetError", ["photos1/cat/b.png"]]
sys.exit(None if as_described else "this has changed")
PYTHON
