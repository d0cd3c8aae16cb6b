#!/usr/bin/env bash
# pytorch-grad-cam's documented `with GradCAM(...) as cam:` swallows every IndexError raised inside the block, the
# user's own too: it prints a line, and the program goes on behind the block. A class that the model does not have
# raises an IndexError.
#
# Expected: an error inside a with block leaves the block, as with files and locks and torch's own contexts; the
# README presents the block as the way to use the class, and says nothing of errors.
#
# It hurts loops over images: `maps` keeps the maps of the image before, so a wrong class index gives each image the
# explanation of another. A tool that counts on exceptions, a test or a service, sees none.
#
# cfcam_gpu raises: "target: class 9 is out of range for 5 classes (0 to 4)". It needs no with block.
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

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

print("grad-cam", version("grad-cam"), "torch", torch.__version__)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
images = torch.randn(2, 1, 3, 12, 12)
shown, raised = [], []
for image, category in zip(images, (2, 9)):  # the model has classes 0 to 4
    try:
        with GradCAM(model=model, target_layers=[model[0]]) as cam:
            maps = cam(input_tensor=image, targets=[ClassifierOutputTarget(category)])
    except IndexError as error:
        raised.append(error)
    shown.append(maps)
own = False
try:
    with GradCAM(model=model, target_layers=[model[0]]):
        [][0]  # nothing to do with the library
    own = True
except IndexError:
    pass
print("expected: IndexError for class 9; IndexError of the user's own")
print(
    "seen:    ",
    raised or "no error for class 9; the second image's map is the first one's: " + str(shown[0] is shown[1]),
)
print("         ", "no error of the user's own" if own else "IndexError of the user's own")
as_described = not raised and shown[0] is shown[1] and own
sys.exit(None if as_described else "this has changed")
PYTHON
