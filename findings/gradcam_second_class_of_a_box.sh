#!/usr/bin/env bash
# pytorch-grad-cam's FasterRCNNBoxScoreTarget takes the one box that overlaps most, and gives 0 if that is of another
# class. Detectors find several classes in one box (torchvision's suppress boxes within a class alone): the second of them
# has no part in a map of all detections, and a map of it alone raises a RuntimeError of autograd.
#
# Expected, from its docstring: 0 "if there is not a large enough overlap, or the category changed". On the very image
# that the boxes were found in, each of them is there, with its class.
#
# It hurts who explains what a detector found: of a cat that is also taken for a dog, the map of both is that of the cat.
#
# cfcam_gpu's targets.Detection looks among the boxes of the class, and has each detection's own map.
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

import numpy as np
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from torch import nn

print("grad-cam", version("grad-cam"), "torch", torch.__version__)


class TwoClassesInOneBox(nn.Module):
    """The score of class 1 depends on the image's left half alone, that of class 2 on the right one."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.features.weight[:] = torch.eye(2, 3)[:, :, None, None]

    def forward(self, images):
        scores = self.features(images).mean((2, 3)).sigmoid()
        boxes, labels = torch.tensor([[2.0, 2, 6, 6]] * 2), torch.tensor([1, 2])
        return [{"boxes": boxes, "labels": labels, "scores": row} for row in scores]


image = torch.zeros(1, 3, 8, 8)
image[:, 0, :, :4] = image[:, 1, :, 4:] = 1
model = TwoClassesInOneBox().eval()
found = model(image)[0]


def columns(labels, boxes):
    """Which of the map's columns are above 0."""
    cam = GradCAM(model=model, target_layers=[model.features])
    maps = cam(image, targets=[FasterRCNNBoxScoreTarget(labels, boxes.numpy())])
    cam.activations_and_grads.release()
    return np.flatnonzero(maps[0].sum(0)).tolist()


print("expected of both: all eight columns; of the second alone: 4 to 7")
both = columns(found["labels"], found["boxes"])
print("seen of both:", both)
try:
    second = columns(found["labels"][1:], found["boxes"][1:])
except RuntimeError as error:
    second = f"RuntimeError: {error}"
print("seen of the second alone:", second)
sys.exit(0 if both == [0, 1, 2, 3] and "does not require grad" in str(second) else 1)
PYTHON
