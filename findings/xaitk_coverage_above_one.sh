#!/usr/bin/env bash
# xaitk-saliency's compute_saliency_coverage, the share of a map within an object, is 21 or 2e11 of a map that has
# negative values beside positive ones, as the maps of its own explainers have, in [-1, 1].
#
# Expected, from its docstring: "the saliency in the ground truth region divided by the total saliency" of a "binary or
# continuous saliency map", so a share in [0, 1], or an error that tells to clip the map first.
#
# It hurts means over data sets: the map with about as much evidence for as against outweighs all others, and one whose
# negatives outweigh is divided by 1e-10. Nothing warns.
#
# cfcam_gpu's maps have no negative values, and cfcam_gpu.metrics' energy in a mask refuses maps that have.
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
from xaitk_saliency.utils.sal_metrics import compute_saliency_coverage

print("xaitk-saliency", version("xaitk-saliency"))
saliency = np.linspace(-1, 1, 100).reshape(10, 10)
region = np.zeros((10, 10), dtype=bool)
region[7:] = True  # the lower three rows
seen = [float(compute_saliency_coverage(saliency + shift, region)) for shift in (0.01, -0.01)]
clipped = float(compute_saliency_coverage(saliency.clip(0), region))
print("expected: a share; of the positive values it is", round(clipped, 3))
print("seen of the whole map with 0.01 more, and with 0.01 less:", seen)
sys.exit(0 if clipped <= 1 < seen[0] and seen[1] > 1e9 else 1)
PYTHON
