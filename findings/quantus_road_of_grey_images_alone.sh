#!/usr/bin/env bash
# Quantus' ROAD and IROF raise of images in colour, of one map for each image as of one for each colour: ROAD looks up
# places of all colours in a mask of one, IROF compares the shape of a mask of one colour with that of the image.
#
# Guess before it was run: IROF raises; ROAD raises, or changes a third of what it is asked to.
#
# Expected: figures, as both papers have them of images in colour, and as both metrics are said to be for images; of
# grey images they are.
#
# It hurts comparisons of maps by these two metrics, of nearly all trained networks.
#
# cfcam_gpu has neither. What it compares its own metrics with is in tests/metrics.
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


def outcome(metric, colours, of_map):
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(colours, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        torch.nn.Linear(4, 3),
    ).eval()
    images = random.random((2, colours, 32, 32)).astype(np.float32)
    maps = random.random((2, of_map, 32, 32)).astype(np.float32)
    try:
        metric(model=model, channel_first=True, x_batch=images, y_batch=np.zeros(2, int), a_batch=maps)
    except (AssertionError, IndexError) as error:
        return type(error).__name__
    return "figures"


metrics = {
    "ROAD": quantus.ROAD(percentages=[10, 50, 90], disable_warnings=True),
    "IROF": quantus.IROF(segmentation_method="felzenszwalb", disable_warnings=True),
}
print("expected: figures, of grey images, of colour with one map, and with one for each colour")
seen = {}
for name, metric in metrics.items():
    seen[name] = [outcome(metric, *given) for given in ((1, 1), (3, 1), (3, 3))]
    print(f"seen, {name}:", *seen[name])
as_described = seen == {"ROAD": ["figures", *["IndexError"] * 2], "IROF": ["figures", *["AssertionError"] * 2]}
sys.exit(None if as_described else "this has changed")
PYTHON
