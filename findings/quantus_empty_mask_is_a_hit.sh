#!/usr/bin/env bash
# Quantus' pointing game counts an image without any object as a hit, where its own comment says NaN: the hits are an
# array of bools, in which NaN is True. With weighted=True, which is to count a hit in a small object for more, it raises
# of any hit: what is written into that array has an axis too many.
#
# Guess before it was run: True of an empty mask, and with weights either True of each hit or an error.
#
# Expected: NaN of an empty mask, as of Quantus' other metrics of localisation; with weights 0.75 of a hit in a quarter
# of the image.
#
# It hurts comparisons on data where some images lack the class: the share of hits rises with each of them, whatever the
# maps are.
#
# cfcam_gpu's pointing game refuses an empty mask by name (cfcam_gpu/metrics/localisation.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==1.26.4 scipy==1.15.3 pandas==2.3.3 scikit-image==0.25.2 scikit-learn==1.7.2
pip install matplotlib==3.10.8 opencv-python-headless==4.11.0.86 tqdm==4.67.1 cachetools==6.2.2
pip install --no-deps quantus==0.6.0

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import quantus
import torch

print("quantus", version("quantus"), "torch", torch.__version__, "numpy", np.__version__)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
images, maps, quarter = np.ones((1, 1, 8, 8), np.float32), np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 1, 8, 8))
maps[..., 1, 1] = 1
quarter[..., :4, :4] = 1


def game(masks, weighted=False):
    metric = quantus.PointingGame(weighted=weighted, disable_warnings=True)
    given = {"x_batch": images, "y_batch": np.array([0]), "a_batch": maps, "s_batch": masks}
    try:
        return float(metric(model=model, channel_first=True, **given)[0])
    except TypeError as error:
        return type(error).__name__


seen = [game(np.zeros_like(quarter)), game(quarter), game(quarter, weighted=True)]
mass = quantus.RelevanceMassAccuracy(disable_warnings=True)(
    model=model, channel_first=True, x_batch=images, y_batch=np.array([0]), a_batch=maps, s_batch=np.zeros_like(quarter)
)
print("expected: no object: nan, as the relevance mass has it:", mass[0], "; a quarter: 1.0; with weights: 0.75")
print("seen:", *seen)
sys.exit(None if seen == [1.0, 1.0, "TypeError"] and np.isnan(mass[0]) else "this has changed")
PYTHON
