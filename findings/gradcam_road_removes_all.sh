#!/usr/bin/env bash
# grad-cam's ROAD metrics remove the whole image where more of a map is 0 than they are to leave: a pixel stays if it is
# less than a percentile, and where that is 0 none is. Of an image without any pixel that is known, the linear imputer
# makes zeros with noise. All methods that end in a ReLU make such maps, and it comes without a warning.
#
# Guess before it was run: all pixels removed, and NaN or a constant in their place.
#
# Expected: of percentile=80 the most relevant fifth of the pixels, or, where all others are alike, those above 0.
#
# It hurts comparisons by ROAD, and ROADCombined, which takes nine percentiles: a sharp map is scored by what the model
# says of a grey image, a map with faint values everywhere by what it says of the image with a part removed.
#
# cfcam_gpu's deletion removes a share of the pixels, and breaks ties at random (cfcam_gpu/metrics/faithfulness.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6
pip install --no-deps grad-cam==1.5.7 ttach==0.0.3 torchvision==0.28.0
pip install opencv-python-headless==5.0.0.93 scikit-learn==1.9.1 matplotlib==3.11.2 scipy==1.17.1 pillow==13.0.0 tqdm==4.70.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import torch


def with_torchvision():
    """Import torchvision; beside a torch without its compiled operators, declare the two that its import looks up."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library


kept = with_torchvision()
from importlib.metadata import version


import numpy as np
from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

print("grad-cam", version("grad-cam"), "torch", torch.__version__)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
images, maps = 0.5 + torch.rand(1, 3, 20, 20), np.zeros((1, 20, 20), np.float32)
maps[:, 4:10, 4:10] = np.random.default_rng(0).uniform(0.1, 1, (6, 6))  # 36 of 400 pixels: 9%


def removed(percentile):
    """The share of pixels that were changed, and the largest value of the image that the model is given."""
    metric = ROADMostRelevantFirst(percentile=percentile)
    targets = [ClassifierOutputTarget(0)]
    _, given = metric(images, maps, targets, model, return_visualization=True)
    return round(float((given != images).any(dim=1).float().mean()), 3), round(float(given.max()), 1)


seen = [removed(percentile) for percentile in (95, 80)]
print("expected of percentile 95: 0.05 of the pixels; of 80: 0.09, all that are not 0, to 0.2; values up to 1.5 stay")
print("seen:", *seen)
as_described = seen[0] == (0.05, 1.5) and seen[1][0] == 1 and seen[1][1] <= 0.2
sys.exit(None if as_described else "this has changed")
PYTHON
