#!/usr/bin/env bash
# xaitk-saliency's Entropy of a map with positive and negative evidence is minus infinity with the range of values that
# its documentation names for such maps, (-1, 1), "Full Saliency". The maps of all its own explainers are in [-1, 1].
#
# Expected: a finite number of bits, at most log2 of the number of pixels: the entropy of some distribution made of the
# map, such as the one that is taken where no range is given (the map moved and scaled to [0, 1]).
#
# It hurts who compares explainers by how concentrated their maps are: one negative pixel makes the mean over a data set
# minus infinity, and "lower is more concentrated" names that explainer the best.
#
# cfcam_gpu's maps have no negative values; its manifest has the entropy of each, divided by the greatest there can be.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0 scikit-learn==1.9.1 click typing_extensions==4.16.0 "setuptools==81.0.0"
pip install --no-deps xaitk-saliency==0.15.0 smqtk-classifier==0.21.0 smqtk-core==0.22.0 smqtk-dataprovider==0.20.0 \
  smqtk-descriptors==0.21.0 smqtk-detection==0.24.0 smqtk-image-io==0.19.0

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from xaitk_saliency.impls.saliency_metric.entropy import Entropy

print("xaitk-saliency", version("xaitk-saliency"), "scipy", version("scipy"))
signed = np.linspace(-1, 1, 100).reshape(10, 10)
seen = {clip: Entropy(clip).compute(signed) for clip in (None, (0, 1), (-1, 0), (-1, 1))}
print("expected: between 0 and", round(float(np.log2(signed.size)), 3), "bits with every range")
print("seen:", seen)
others = all(0 < seen[clip] < np.log2(signed.size) for clip in (None, (0, 1), (-1, 0)))
sys.exit(0 if others and seen[-1, 1] == -np.inf else 1)
PYTHON
