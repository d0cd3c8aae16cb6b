#!/usr/bin/env bash
# Once torch.backends.cuda.matmul.fp32_precision = "tf32" was set, the newer of torch's settings and the only one used,
# torch.get_float32_matmul_precision() raises a RuntimeError: that a mix of the newer and the older settings was used.
# So does reading torch.backends.cuda.matmul.allow_tf32. No GPU is needed for that: reading is what fails.
#
# Expected: torch's note on TF32 recommends the newer settings and warns of setting both kinds. A program that sets the
# newer kind alone has not mixed them, and a getter that only asks returns something, or warns.
#
# It hurts libraries that must know whether a float32 product on the CPU is one: attributions that compare distances,
# or tests that decide on a tolerance. The user's one line for the GPU makes every call on the CPU fail.
#
# cfcam_gpu's engine cpu takes the error for "not known", and multiplies in float64 then (cfcam_gpu/engines/pairs.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)


def asked(read):
    try:
        return read()
    except RuntimeError as error:
        return f"RuntimeError: {str(error).splitlines()[0][:110]}"


before = asked(torch.get_float32_matmul_precision)
torch.backends.cuda.matmul.fp32_precision = "tf32"
after = asked(torch.get_float32_matmul_precision)
flag = asked(lambda: torch.backends.cuda.matmul.allow_tf32)
print("before:", before)
print("expected after the newer setting alone: a precision, and True")
print("seen:", after)
print("     ", flag)
as_described = before == "highest" and all(str(one).startswith("RuntimeError") for one in (after, flag))
sys.exit(None if as_described else "this has changed")
PYTHON
