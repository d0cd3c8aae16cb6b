#!/usr/bin/env bash
# torch.onnx.export(dynamo=True) of an average pooling with `divisor_override` leaves the divisor out: the graph divides
# by the size of the window. No error, no warning, and the file passes onnx's checker.
#
# Expected: an exporter that can't write an argument raises an error, as it does for the operators that it does not
# know; or it writes the pooling and a product after it.
#
# Seen: a window of 3 x 3 with divisor_override=5 comes out too small by 4/9, one of 3 x 3 x 3 by 22/27. With
# divisor_override=1, the usual way to sum over windows, a window of 2 x 2 gives a quarter of the sum.
#
# It hurts whoever explains the exported model: its activations, logits and classes are those of another network.
#
# cfcam_gpu writes such poolings with graph operators of its own (cfcam_gpu/deploy/operators/resampling.py), and
# compares each file with torch before it is kept.
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

import onnx
import onnxruntime
import onnxscript
import torch
from torch import nn

print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__)
logging.disable(logging.WARNING)  # that torchvision is not installed


def seen(pooling, images):
    """What torch and ONNX Runtime give in the middle of the image, and what was said of the divisor."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = torch.onnx.export(pooling, (images,), dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    said = sum("divisor" in str(each.message) for each in told)
    return round(pooling(images).flatten()[-1].item(), 4), round(float(found.ravel()[-1]), 4), said


poolings = {
    "2d, 3 x 3 by 5": (nn.AvgPool2d(3, divisor_override=5), torch.ones(1, 1, 3, 3)),
    "2d, 2 x 2 by 1": (nn.AvgPool2d(2, divisor_override=1), torch.ones(1, 1, 2, 2)),
    "3d, 3 x 3 x 3 by 5": (nn.AvgPool3d(3, divisor_override=5), torch.ones(1, 1, 3, 3, 3)),
}
found = {name: seen(*case) for name, case in poolings.items()}
print("of ones, expected: ONNX Runtime gives what torch gives")
for name, (by_torch, by_file, said) in found.items():
    print(f"seen, {name}: torch {by_torch}, ONNX Runtime {by_file}, {said} warnings of it")
wanted = [(1.8, 1.0, 0), (4.0, 1.0, 0), (5.4, 1.0, 0)]
sys.exit(None if list(found.values()) == wanted else "this has changed")
PYTHON
