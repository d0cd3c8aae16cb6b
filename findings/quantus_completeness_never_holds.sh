#!/usr/bin/env bash
# Quantus' Completeness is False of an explanation that is complete: by default it divides the explanation by its
# maximum before it adds it up, and with normalise=False it asks whether two float32 numbers are the same to the last
# bit.
#
# Guess before it was run: False by default; without normalisation by chance.
#
# Expected: weight times input of a linear model adds up to the difference of its answers to the image and to a black
# one, which is what the axiom asks for: True.
#
# It hurts whoever ranks methods by this axiom: all have the share 0, integrated gradients among them.
#
# cfcam_gpu.metrics.completeness_gap gives how far the sum is off, as a share of the change.
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
torch.manual_seed(0)
random = np.random.default_rng(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)).eval()
images = random.random((64, 3, 8, 8)).astype(np.float32)
weights = model[1].weight[0].detach().numpy().reshape(1, 3, 8, 8)


def share(normalise):
    metric = quantus.Completeness(normalise=normalise, abs=False, disable_warnings=True)
    given = {"x_batch": images, "y_batch": np.zeros(64, int), "a_batch": weights * images}
    return float(np.mean(metric(model=model, channel_first=True, **given)))


with torch.no_grad():
    answers = model(torch.from_numpy(images))[:, 0] - model(torch.zeros(1, 3, 8, 8))[:, 0]
gap = float((torch.from_numpy((weights * images).sum((1, 2, 3))) - answers).abs().max())
default, plain = share(True), share(False)
print(f"expected: True of all; their sums are off by {gap:.0e} at most")
print("seen, the share that is complete, by default:", default, "; with normalise=False:", plain)
sys.exit(None if gap < 1e-5 and default == 0 and plain < 0.5 else "this has changed")
PYTHON
