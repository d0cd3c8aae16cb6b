#!/usr/bin/env bash
# datasets' "imagefolder" of a folder with a class "train", which CIFAR-100 and COCO have, is that class: the other
# classes' images, and the labels, are gone. So it is with a class "test tube", and with one image "crash-test.png".
#
# Expected: every image of the folder, since data_dir is documented as the same as all the files below it; that some
# names choose a split is documented too, but not that then all the others are left out. data_files="FOLDER/**" gives
# them all.
#
# It hurts whoever trains, evaluates or explains on a folder of images: a data set with one image whose name has one of
# these words (train, training, validation, valid, val, dev, test, testing, eval, evaluation) loses all others, and
# where the word is "train", split="train" gives no error either.
#
# cfcam_gpu gives these words in names no meaning.
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
import os
import sys

import datasets
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)


def made(folder, *names):
    for name in names:
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        Image.new("L", (2, 2)).save(f"{folder}/{name}")
    return os.path.abspath(folder)


def found(**where):
    splits = datasets.load_dataset("imagefolder", **where)
    return {name: (split.num_rows, "label" in split.features) for name, split in splits.items()}


folders = {
    "a class 'tram'": made("tram", "bus/1.png", "car/1.png", "tram/1.png"),
    "a class 'train'": made("train", "bus/1.png", "car/1.png", "train/1.png"),
    "a class 'test tube'": made("tube", "cup/1.png", "jar/1.png", "test tube/1.png"),
    "an image 'crash-test'": made("crash", "bus/1.png", "car/1.png", "car/crash-test.png"),
}
seen = {name: found(data_dir=folder) for name, folder in folders.items()}
by_pattern = found(data_files=folders["a class 'train'"] + "/**")
print("expected: 3 images, with labels, whatever the names, as data_files gives for 'train':", by_pattern)
for name, splits in seen.items():
    print(f"seen:     {name}: (images, labels) of each split: {splits}")
as_described = by_pattern == {"train": (3, True)} and list(seen.values()) == [
    {"train": (3, True)},
    {"train": (1, False)},
    {"test": (1, False)},
    {"test": (1, False)},
]
sys.exit(None if as_described else "this has changed")
PYTHON
