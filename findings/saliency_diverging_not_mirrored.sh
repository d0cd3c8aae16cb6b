#!/usr/bin/env bash
# VisualizeImageDiverging of Google's saliency scales a mask of positive and negative attributions by the 99th percentile
# of the signed values, not of their sizes: of a mask that is mostly negative the scale is that of its few positives, and
# the negatives are cut off at -1 beside them. What is neutral comes as 0.5, where the lower end is cut off at -1.
#
# Expected, from its docstring, "a 2D tensor with positive and negative values", and its clipping to [-1, 1]: 0 stays 0,
# and the picture of a mask with the other sign is the same with the other sign.
#
# It hurts who shows evidence against a class: the same mask with the other sign is another picture, and evidence against
# looks many times stronger than as much evidence for.
#
# cfcam_gpu shows evidence for one score, from 0, and for evidence against a class explains it against another class.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0
pip install --no-deps saliency==0.2.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import saliency.core as saliency

print("saliency", version("saliency"))
mask = np.random.default_rng(0).normal(-1, 0.5, (50, 50, 1))  # mostly against the class
mask[0, 0] = 0
plain, mirrored = saliency.VisualizeImageDiverging(mask), saliency.VisualizeImageDiverging(-mask)
neutral = float(plain[0, 0]), float(mirrored[0, 0])
print("expected: 0 where the mask is 0, and means of opposite sign and one size")
print("seen where it is 0:", neutral)
print("seen: means less what is neutral", float(plain.mean() - neutral[0]), "and", float(mirrored.mean() - neutral[1]))
one, other = abs(plain.mean() - neutral[0]), abs(mirrored.mean() - neutral[1])
sys.exit(0 if neutral == (0.5, 0.5) and max(one, other) > 3 * min(one, other) else 1)
PYTHON
