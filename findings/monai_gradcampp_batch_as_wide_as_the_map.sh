#!/usr/bin/env bash
# MONAI's GradCAMpp raises for a batch, except where the batch has as many images as the target layer's map has
# columns: then it returns maps that are wrong without a word. The scores (B,) meet gradients (B, C, H, W), and so
# line up with the columns: each column is weighted by the exponential of another image's score.
#
# Expected: maps of a batch are those of its images alone, as GradCAM of the same module gives them for a given class.
# Its constructor and its call are the same, and nothing limits the batch.
#
# It hurts those who explain medical images in batches: small maps of 4, 7 or 8 columns are common in the last layers,
# and so are batches of 4 or 8. A batch that works only at one size is taken for a quirk of the others.
#
# cfcam_gpu reads each image's score for that image alone, and gives the same maps at any size of the batch.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6
pip install --no-deps monai==1.6.1

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import monai
import torch
from monai.visualize import GradCAM, GradCAMpp
from torch import nn

print("monai", monai.__version__, "torch", torch.__version__)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(8 * 8 * 8, 5),
).eval()
nn.init.normal_(model[3].weight, std=0.3)
images = torch.randn(8, 1, 16, 16)  # the target layer's map has 8 columns


def outcome(method, images):
    """The largest difference between an image's map in the batch and alone, or the error's name."""
    explain = method(model, "0")
    alone = torch.cat([explain(image[None], class_idx=1) for image in images])
    try:
        return float((explain(images, class_idx=1) - alone).abs().max())
    except RuntimeError as error:
        return type(error).__name__


print("expected: maps in [0, 1] of a batch differ from those of single images by no more than rounding, 1e-5")
seen = {
    (method.__name__, count): outcome(method, images[:count]) for method in (GradCAM, GradCAMpp) for count in (4, 8)
}
for (name, count), found in seen.items():
    print(f"seen:     {name} of {count} images:", found)
as_described = (
    all(seen["GradCAM", count] < 1e-5 for count in (4, 8))
    and seen["GradCAMpp", 4] == "RuntimeError"
    and isinstance(seen["GradCAMpp", 8], float)
    and seen["GradCAMpp", 8] > 0.02
)
sys.exit(None if as_described else "this has changed")
PYTHON
