#!/usr/bin/env bash
# xaitk-saliency's compute_iou_coverage scales the larger of map and mask down to the smaller by the factors of the other
# axis each: rows by the ratio of the widths, columns by that of the heights. Where the proportions differ, it raises.
#
# Expected, from its docstring: "If one of the inputs is larger in spatial dimensions than the other, the larger input is
# scaled down to the size of the smaller input." Its neighbour compute_saliency_coverage does so.
#
# It hurts who compares a map of a network's square input with an annotation of the photograph, which is the usual case:
# the error tells of shapes that nobody gave.
#
# cfcam_gpu's metrics refuse masks of another size than the maps, with both sizes, and do not scale them; `cfcam-gpu
# bench` resizes and crops masks as it does their photographs.
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
from xaitk_saliency.utils.sal_metrics import compute_iou_coverage, compute_saliency_coverage

print("xaitk-saliency", version("xaitk-saliency"), "scipy", version("scipy"))
whole, square = np.ones((480, 640), dtype=bool), np.ones((224, 224), dtype=bool)
same = compute_iou_coverage(np.ones((448, 448), dtype=bool), square)
print("both all ones: expected 1 at any sizes; seen of 448 x 448 with 224 x 224:", same)
print("compute_saliency_coverage of 480 x 640 with 224 x 224:", compute_saliency_coverage(whole * 1.0, square))
try:
    print("seen of 480 x 640 with 224 x 224:", compute_iou_coverage(whole, square))
    raised = False
except ValueError as error:
    print("seen of 480 x 640 with 224 x 224: ValueError:", error)
    raised = "(168,299)" in str(error)  # 480 x 224 / 640, 640 x 224 / 480
sys.exit(0 if same == 1 and raised else 1)
PYTHON
