#!/usr/bin/env bash
# torch.compiler.set_stance, used as a context manager in two threads whose blocks overlap, leaves the whole process
# in "force_eager" after both blocks have ended. Each block puts back the stance that it found, and the second found
# the first one's. From then on every torch.compile is ignored, without a word.
#
# Expected: the documentation offers `with torch.compiler.set_stance("force_eager"):` beside the plain call, and shows
# what is inside the block as not compiled. It does not say that the stance is one for all threads, or that blocks
# must not overlap. Once no block is open, torch.compile should compile again.
#
# It hurts tools that look inside compiled models: hooks on the layers of a compiled model need it to run as written,
# so a library of attributions, or a server that explains and predicts in several threads, opens such blocks, and the
# whole service stays slow after the first two explanations that overlapped.
#
# cfcam_gpu shares one stance among its calls that overlap: the first sets it, the last puts the user's back
# (cfcam_gpu/hooks/guard.py).
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

print("torch", torch.__version__)


def compiled_anew():
    """Whether torch.compile compiles a function that it has not seen."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(lambda x: x.relu() + 1, backend=backend)(torch.ones(3))
    return bool(graphs)


first_is_inside, second_is_inside, first_has_ended = threading.Event(), threading.Event(), threading.Event()


def first():
    with torch.compiler.set_stance("force_eager"):
        first_is_inside.set()
        second_is_inside.wait(30)
    first_has_ended.set()


def second():
    first_is_inside.wait(30)
    with torch.compiler.set_stance("force_eager"):
        second_is_inside.set()
        first_has_ended.wait(30)


before = compiled_anew()
with torch.compiler.set_stance("force_eager"):
    pass
after_one = compiled_anew()
threads = [threading.Thread(target=first), threading.Thread(target=second)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
after_both = compiled_anew()
print(
    "expected: torch.compile compiles before any block, after one block, and after two that overlapped: True True True"
)
print("seen:    ", before, after_one, after_both)
as_described = (before, after_one, after_both) == (True, True, False)
sys.exit(None if as_described else "this has changed")
PYTHON
