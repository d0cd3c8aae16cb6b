#!/usr/bin/env bash
# The gradient of ReLU6 and Hardtanh, written by torch.onnx.export(dynamo=True), passes at the very bounds, where
# torch's own gradient is nothing: at 0 and 6, and at -1 and 1.
#
# Expected: aten.hardtanh_backward in a graph gives what aten.hardtanh_backward gives, as aten.threshold_backward, of
# ReLU, does: both are nothing at 0 in torch.
#
# Seen: of the inputs -1, 0, 3, 6, 7 torch's gradient is 0, 0, 1, 0, 0, and the file's 0, 1, 1, 1, 0. An input of
# exactly 0 or 6 is no rare one: black borders behind a convolution without a bias, channels that are dead, values
# that were clipped before.
#
# It hurts gradients inside graphs, as Grad-CAM's and all weights that are means of gradients: each cell at rest counts
# as one that is alive, and a MobileNet's map can differ from torch's with the same logits.
#
# cfcam_gpu writes that gradient with graph operators of its own (cfcam_gpu/deploy/operators/activations.py).
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

import onnxruntime
import onnxscript
import torch
from torch import nn
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__)
logging.disable(logging.WARNING)  # that torchvision is not installed


def seen(activation, inputs):
    """The gradient of the activation's sum: torch's, the traced graph's and the file's."""
    gradient = grad(lambda x: activation(x).sum())
    graph = make_fx(gradient)(inputs)
    model = torch.onnx.export(graph, (inputs,), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return gradient(inputs).tolist(), graph(inputs).tolist(), (found + 0.0).tolist()


inputs = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0])
found = {
    "ReLU": seen(nn.ReLU(), inputs),
    "ReLU6": seen(nn.ReLU6(), inputs),
    "Hardtanh(-1, 3)": seen(nn.Hardtanh(-1, 3), inputs),
}
print("expected: three equal gradients, torch's, the traced graph's and the file's, at", inputs.tolist())
for name, gradients in found.items():
    print(f"seen, {name}:", *gradients)
nothing, one = 0.0, 1.0
as_described = (
    found["ReLU"][0] == found["ReLU"][2]
    and found["ReLU6"][:2] == ([nothing, nothing, one, nothing, nothing],) * 2
    and found["ReLU6"][2] == [nothing, one, one, one, nothing]
    and found["Hardtanh(-1, 3)"][:2] == ([nothing, one, nothing, nothing, nothing],) * 2
    and found["Hardtanh(-1, 3)"][2] == [one, one, one, nothing, nothing]
)
sys.exit(None if as_described else "this has changed")
PYTHON
