#!/usr/bin/env bash
# A torch tensor that has the negative bit, such as `z.conj().imag`, goes out through DLPack with the sign of its
# memory: NumPy, and any other library that reads it, gets the negative of its values, without a word.
#
# Expected: the array that numpy.from_dlpack returns is equal to the tensor; or an error, as `tensor.numpy()` raises
# for the negative bit, and as `__dlpack__` raises for the conjugate bit, its sister.
#
# It hurts whatever hands arrays to CuPy, JAX or NumPy without a copy: explanations and models in the frequency domain
# (FFT layers, MRI reconstruction, spectral attributions) take real and imaginary parts, and a map whose sign is wrong
# points to what speaks against the class.
#
# cfcam_gpu resolves the sign before memory is shared (cfcam_gpu/engines/dlpack.py).
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

import numpy as np
import torch

print("torch", torch.__version__, "numpy", np.__version__)
spectrum = torch.tensor([1 + 2j, 3 - 4j]).conj()


def outcome(work):
    try:
        return work().tolist()
    except Exception as error:
        return type(error).__name__


tensor = spectrum.imag
by_dlpack, by_numpy = outcome(lambda: np.from_dlpack(tensor)), outcome(tensor.numpy)
conjugate = outcome(lambda: np.from_dlpack(spectrum))
print("expected: numpy.from_dlpack gives", tensor.tolist(), "or raises, as tensor.numpy() does:", by_numpy)
print("          and as numpy.from_dlpack does for the conjugate bit:", conjugate)
print("seen:     numpy.from_dlpack gives", by_dlpack)
as_described = (
    by_dlpack == [-value for value in tensor.tolist()] and by_numpy == "RuntimeError" and conjugate == "BufferError"
)
sys.exit(None if as_described else "this has changed")
PYTHON
