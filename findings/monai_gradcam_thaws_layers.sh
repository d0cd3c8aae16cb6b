#!/usr/bin/env bash
# MONAI's GradCAM, called on a model in training, leaves every layer in training mode: layers that the user had frozen
# by `layer.eval()` are thawed, and the next training step changes their running statistics.
#
# Expected: a call that explains returns the model as it was given. MONAI means to: it notes whether the model was in
# training mode, switches it to evaluation, and back; but it notes one mode for all layers.
#
# It hurts fine-tuning with frozen batch normalisation, the usual way with small batches of volumes: a map drawn after
# each epoch, for TensorBoard, changes the training that it should watch.
#
# cfcam_gpu does not switch modes: it uses the model as it is, warns of layers in training mode, and gives back its
# buffers as they were (cfcam_gpu/hooks/guard.py).
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
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 4, 3),
    nn.BatchNorm2d(4),
    nn.ReLU(),
    nn.Conv2d(4, 4, 3),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(4, 2),
)
frozen = model[1]
images = 5 + torch.randn(2, 1, 12, 12)


def changed_by_a_step():
    """Whether a forward in training changes the frozen layer's statistics."""
    before = frozen.running_mean.clone()
    model(images)
    return not torch.equal(before, frozen.running_mean)


model.train()
frozen.eval()
before = changed_by_a_step()
GradCAM(model, "3")(images, class_idx=0)
after = changed_by_a_step()
print("expected: a training step leaves the frozen layer as it is before and after the call: changed False, False")
print(f"seen:     changed {before}, {after}")
as_described = (before, after, frozen.training) == (False, True, True)
sys.exit(None if as_described else "this has changed")
PYTHON
