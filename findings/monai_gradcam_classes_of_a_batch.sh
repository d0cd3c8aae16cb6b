#!/usr/bin/env bash
# MONAI's GradCAM, on a batch and with its default class, mixes the classes: each image's map explains the sum of the
# classes that were predicted for all images of the batch. The same image gets another map beside other images.
#
# Expected: the documentation of the call gives the largest logit as the default class, that is of each image its own
# predicted class, and the same map as for the image alone. With one class_idx given for all, a batch does give the
# maps of its images alone.
#
# It hurts medical work that explains predictions in batches, and any figure or metric made of such maps: they look
# plausible, and they answer a question that nobody asked.
#
# cfcam_gpu takes of each image the score of its own class, and gives it the same map in any batch.
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
from monai.visualize import GradCAM
from torch import nn

print("monai", monai.__version__, "torch", torch.__version__)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(self.features(images).relu().mean((2, 3)))


torch.manual_seed(0)
model = Net().eval()
images = torch.randn(3, 1, 12, 12) * torch.tensor([0.3, 1, 3]).view(3, 1, 1, 1)
while len(set(model(images).argmax(1).tolist())) < 3:  # until each image has a class of its own
    nn.init.normal_(model.head.weight)
explain = GradCAM(model, "features")
predicted = model(images).argmax(1).tolist()


def difference(class_idx):
    """The largest between an image's map in the batch and alone."""
    together = explain(images, class_idx=class_idx)
    alone = torch.cat([explain(image[None], class_idx=class_idx) for image in images])
    return float((together - alone).abs().max())


own, given = difference(None), difference(1)
print("predicted:", predicted)
print("expected: maps in [0, 1] of the batch differ from those of single images by no more than rounding, 1e-5")
print(f"seen:     with class_idx=1 by {given:.1e}, with the default class by {own:.2f}")
as_described = len(set(predicted)) == 3 and given < 1e-5 and own > 0.1
sys.exit(None if as_described else "this has changed")
PYTHON
