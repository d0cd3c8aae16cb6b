#!/usr/bin/env bash
# webdataset, and datasets' "webdataset", leave out a tar's hard links without a word: tar writes one for every further
# name of a file that it has stored, so that of two samples whose files are linked the second is lost.
#
# Expected: the samples that unpacking the tar gives: three, each with an image and a class.
#
# It hurts data sets whose duplicates were linked to save space (cp -l, rsync --link-dest, fdupes, deduplicated stores),
# once they are packed with tar or Python's tarfile: images and labels are missing, and counts and scores are of others.
#
# cfcam_gpu reads a link of a tar as the member that it names (cfcam_gpu/sources/tars.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 webdataset==1.0.2
pip install datasets==5.2.0 pyarrow==26.0.1 fsspec==2026.9.0 huggingface_hub==2.4.0 pillow==13.0.0

cd "$folder"
export HF_HOME=$folder/cache HF_HUB_OFFLINE=1
venv/bin/python -W ignore - <<'PYTHON'
import os
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import datasets
import webdataset
from PIL import Image

datasets.disable_progress_bars()
print("webdataset", version("webdataset"), "datasets", datasets.__version__)


def made(name, second):
    """A tar of three samples: a, b that is the same, and c."""
    folder = Path(name)
    folder.mkdir()
    for sample, colour, number in (("a", 10, "1"), ("c", 30, "2")):
        Image.new("L", (2, 2), colour).save(folder / f"{sample}.png")
        (folder / f"{sample}.cls").write_text(number)
    for suffix in ("png", "cls"):
        second(folder / f"a.{suffix}", folder / f"b.{suffix}")
    with tarfile.open(f"{name}.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return os.path.abspath(f"{name}.tar")


def by_webdataset(path):
    samples = webdataset.WebDataset(path, shardshuffle=False)
    return {sample["__key__"]: sorted(key for key in sample if not key.startswith("__")) for sample in samples}


def by_datasets(path):
    rows = datasets.load_dataset("webdataset", data_files=path, split="train", streaming=True)
    rows = list(rows.cast_column("png", datasets.Image(decode=False)))
    return {row["__key__"]: sorted(key for key in ("cls", "png") if row.get(key) is not None) for row in rows}


def outcome(read, path):
    try:
        return read(path)
    except Exception as error:
        return type(error).__name__


def copied(old, new):
    new.write_bytes(old.read_bytes())


copies, links = made("copies", copied), made("links", lambda old, new: new.hardlink_to(old))
whole, left = ({sample: ["cls", "png"] for sample in samples} for samples in ("abc", "ac"))
as_described = True
for name, read in (("webdataset", by_webdataset), ("datasets", by_datasets)):
    found, linked = outcome(read, copies), outcome(read, links)
    print(f"expected: {name}: {found}, as for copies")
    print(f"seen:     {name}: {linked}")
    as_described &= found == whole and linked == left
sys.exit(None if as_described else "this has changed")
PYTHON
