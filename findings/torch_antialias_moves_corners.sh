#!/usr/bin/env bash
# torch.nn.functional.interpolate(align_corners=True, antialias=True) does not align the corners: the scale is that of
# aligned corners, the places are those of align_corners=False. The map is moved by half a cell, and its last row and
# column are lost. torch.onnx.export writes what was asked, a Resize with aligned corners: the file differs
# from torch.
#
# Expected: with align_corners=True the corner pixels of input and output are at one place and have one value, as
# torch's text says. antialias is for making smaller; making larger, it changes nothing, as with align_corners=False.
#
# Seen: 0, 1, 2, 3 made 7 long gives 0, 0.25, 0.75, ..., 2.75 instead of 0, 0.5, 1, ..., 3. Nothing warns.
#
# It hurts class activation maps laid over their image: one of 7 x 7 cells, made 224 x 224, is moved by 18 pixels to the
# right and below, and no cell of the last row and column is ever shown at its full height.
#
# cfcam_gpu never asks for both; a network that does is exported with torch's own values
# (cfcam_gpu/deploy/operators/plain.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import logging
import sys
import warnings

import onnxruntime
import onnxscript
import torch
from torch import nn
from torch.nn.functional import interpolate

print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__)
logging.disable(logging.WARNING)  # that torchvision is not installed


class Larger(nn.Module):
    def forward(self, maps):
        return interpolate(maps, size=(4, 7), mode="bilinear", align_corners=True, antialias=True)


maps = torch.arange(4.0).expand(1, 1, 4, 4).contiguous()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    both = Larger()(maps)[0, 0, 0]
corners = interpolate(maps, size=(4, 7), mode="bilinear", align_corners=True)[0, 0, 0]
halves = [
    interpolate(maps, size=(4, 7), mode="bilinear", align_corners=False, antialias=antialias)[0, 0, 0]
    for antialias in (False, True)
]
model = torch.onnx.export(Larger(), (maps,), dynamo=True, verbose=False).model_proto
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
file = torch.tensor(session.run(None, {session.get_inputs()[0].name: maps.numpy()})[0])[0, 0, 0]

cell = torch.zeros(1, 1, 7, 7)
cell[..., 3, 3] = 1
middles = []
for antialias in (False, True):
    large = interpolate(cell, size=(224, 224), mode="bilinear", align_corners=True, antialias=antialias)[0, 0]
    middles.append(round(((large.sum(0) * torch.arange(224)).sum() / large.sum()).item(), 1))

print("expected, aligned corners:", corners.tolist())
print("seen, with antialias:     ", both.tolist(), "with", len(told), "warnings")
print("seen, the exported file:  ", file.tolist())
print("the middle of the middle cell in 224 pixels: expected", middles[0], "seen with antialias", middles[1])
as_described = (
    torch.allclose(*halves)
    and torch.allclose(corners, torch.arange(7) / 2)
    and torch.allclose(file, corners)
    and torch.allclose(both, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))
    and middles[1] - middles[0] > 15
    and not told
)
sys.exit(None if as_described else "this has changed")
PYTHON
