#!/usr/bin/env bash
# pytorch-grad-cam's AblationCAM puts a layer of its own in the place of the target layer while it works. If the call
# is cut short, by an interrupt, by memory that runs out or by an error in the user's target, its layer stays in the
# model, and the model's predictions are others from then on, without a word, after the with block has ended, too.
#
# Expected: the model is unchanged: the source says so of the end of the call, and the with block is there to release
# what the library put into the model, which it does for its hooks.
#
# It hurts notebooks and services above all: the method is the slowest of all, one forward for each few channels, so
# it is the one that gets interrupted; afterwards accuracies, other explanations and saved weights come from another
# network.
#
# cfcam_gpu ablates in a hook, which is removed however the call ends; the model's layers stay in their places.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6
pip install --no-deps grad-cam==1.5.7 ttach==0.0.3 torchvision==0.28.0
pip install opencv-python-headless==5.0.0.93 scikit-learn==1.9.1 matplotlib==3.11.2 pillow==13.0.0 tqdm==4.70.1

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

from pytorch_grad_cam import AblationCAM
from torch import nn

print("grad-cam", version("grad-cam"), "torch", torch.__version__)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
images = torch.randn(4, 3, 12, 12)


class Interrupted:
    """A target during whose work the user presses Ctrl-C, after some forwards."""

    def __init__(self, after):
        self.left = after

    def __call__(self, output):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return output[0]


def state():
    with torch.no_grad():
        return model(images).tolist(), list(model.state_dict()), type(model[0]).__name__


def difference(after):
    """Call, be interrupted or not, and compare."""
    before = state()
    try:
        with AblationCAM(model=model, target_layers=[model[0]]) as cam:
            cam.batch_size = 2
            cam(input_tensor=images[:1], targets=[Interrupted(after)])
        ended = "to its end"
    except KeyboardInterrupt:
        ended = "interrupted"
    now = state()
    return ended, now[0] == before[0], now[1] == before[1], now[2]


whole, cut = difference(1000), difference(4)
print("expected: same predictions, same names of weights, and the layer is a Conv2d, however the call ends")
print("seen:    ", whole)
print("seen:    ", cut)
as_described = whole == ("to its end", True, True, "Conv2d") and cut[:3] == ("interrupted", False, False)
sys.exit(None if as_described else "this has changed")
PYTHON
