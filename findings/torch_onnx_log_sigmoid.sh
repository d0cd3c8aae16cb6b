#!/usr/bin/env bash
# torch.onnx.export(dynamo=True) writes logsigmoid as a Sigmoid and a Log. ONNX Runtime's Sigmoid of float32 gives 0
# from about -18 on, so the logarithm of the probability is minus infinity there. The loss
# binary_cross_entropy_with_logits is written so, too, and is infinite.
#
# Expected: torch.nn.LogSigmoid and the losses "with logits" are there for being right where the sigmoid and its
# logarithm, one after the other, are not; a graph of them keeps that, as -Softplus(-x) would.
#
# Seen: at a logit of -30 torch gives -30 and the file -inf; at -15 they are apart by 1 %. At each of them the sigmoid
# alone is right to 1e-6, so that a test of the probabilities passes. Nothing warns.
#
# It hurts multi-label classifiers explained by the logarithm of a class's probability: an unlikely class is at minus
# infinity, and whatever is compared or summed with it, too.
#
# cfcam_gpu traces a network to torch's own finer operators before the exporter sees it, so that its files have the
# smaller of x and 0, less log(1 + exp(-|x|)) (cfcam_gpu/deploy/tracing.py).
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
import math
import sys

import onnxruntime
import onnxscript
import torch
from torch import nn

print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__)
logging.disable(logging.WARNING)  # that torchvision is not installed


class Loss(nn.Module):
    def forward(self, logits):
        losses = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
        return losses


def seen(module, logits):
    model = torch.onnx.export(module, (logits,), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: logits.numpy()})
    return [node.op_type for node in model.graph.node], module(logits).tolist(), found.tolist()


logits = torch.tensor([-5.0, -15.0, -30.0, -110.0])
print("expected: the file gives what torch gives, of logits", logits.tolist())
found = {type(module).__name__: seen(module, logits) for module in (nn.Sigmoid(), nn.LogSigmoid(), Loss())}
for name, (operators, by_torch, by_file) in found.items():
    print(f"seen, {name}: torch {by_torch}, file {by_file}, of {operators}")
_, by_torch, by_file = found["LogSigmoid"]
_, loss_by_torch, loss_by_file = found["Loss"]
_, chances, chances_by_file = found["Sigmoid"]
# Where a processor's own Sigmoid is finer, -30 is right; exp(-110) is nothing in every float32.
as_described = (
    by_torch[3] == -110.0
    and by_file[3] == -math.inf
    and loss_by_torch[3] == 110.0
    and loss_by_file[3] == math.inf
    and all(abs(a - b) < 1e-6 for a, b in zip(chances, chances_by_file))
)
sys.exit(None if as_described else "this has changed")
PYTHON
