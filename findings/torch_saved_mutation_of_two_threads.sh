#!/usr/bin/env bash
# torch.autograd.graph.allow_mutation_on_saved_tensors, entered in a second thread, raises there that its contexts
# cannot be nested, though nothing is nested; and that attempt also ends the context of the first thread, whose
# backward then fails, though it did all that it should inside its own context.
#
# Expected: the documentation asks that forward and backward run under the same context manager, and says nothing of
# threads. Autograd's other context managers, no_grad or saved_tensors_hooks, hold for the thread that entered them.
#
# It hurts attributions of models that write in place behind the layer of interest (`x += block(x)`, an in-place
# ReLU): the context is torch's own remedy for "modified by an inplace operation", and a service that explains in
# several threads gets errors in requests that were fine, from other requests.
#
# cfcam_gpu does not use it: it keeps copies through saved_tensors_hooks, which are a thread's own
# (cfcam_gpu/hooks/capture.py).
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
import threading

import torch
from torch.autograd.graph import allow_mutation_on_saved_tensors

print("torch", torch.__version__)


def gradient_of_a_head_that_writes_in_place(meanwhile=lambda: None):
    """Of sum(exp(w)^2), whose exp(w) is overwritten before the backward."""
    weight = torch.zeros(4, requires_grad=True)
    with allow_mutation_on_saved_tensors():
        activation = weight.exp()
        score = (activation**2).sum()
        activation.mul_(0)
        meanwhile()
        score.backward()
    return weight.grad.tolist()


def outcome(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__ + ": " + str(error).partition(".")[0]


others = []


def another_thread():
    thread = threading.Thread(target=lambda: others.append(outcome(gradient_of_a_head_that_writes_in_place)))
    thread.start()
    thread.join()


alone = outcome(gradient_of_a_head_that_writes_in_place)
beside = outcome(lambda: gradient_of_a_head_that_writes_in_place(another_thread))
print("expected: [2.0, 2.0, 2.0, 2.0] in every thread")
print("seen, alone:                          ", alone)
print("seen, a thread that began meanwhile:  ", others[0])
print("seen, the thread that was inside then:", beside)
right = [2.0] * 4
as_described = alone == right and "cannot be nested" in str(others[0]) and "AssertionError" in str(beside)
sys.exit(None if as_described else "this has changed")
PYTHON
