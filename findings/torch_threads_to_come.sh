#!/usr/bin/env bash
# torch.set_num_threads, called in one thread, leaves all threads that have worked already as they are, the main one
# among them, and sets the number of those that begin later, whoever begins them. So it is neither the calling
# thread's own setting nor the process's.
#
# Expected: its documentation has one sentence, "Sets the number of threads used for intraop parallelism on CPU." Either
# that holds for the process, and torch.get_num_threads() says so everywhere, or for the caller, and no other thread
# sees it. A worker that wants one thread for itself, the usual advice against two pools on the same cores, sets it so.
#
# It hurts services and pipelines that explain or predict in pools of threads: after one worker's set_num_threads(1), a
# thread that the program begins an hour later runs its convolutions on one core, while the main thread still says that
# there are as many as before. Nothing tells why.
#
# cfcam_gpu's engine cpu gives its own workers one thread each, and lets a thread that ends at once put back the number
# for those to come (cfcam_gpu/engines/workers.py); a test holds that no other thread sees a difference.
set -euo pipefail

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
torch.set_num_threads(3)
torch.ones(300, 300) @ torch.ones(300, 300)  # the main thread has worked
assert torch.get_num_threads() == 3
counted, may_count_again = threading.Event(), threading.Event()
of_earlier = []


def earlier():
    of_earlier.append(torch.get_num_threads())
    counted.set()
    may_count_again.wait(30)
    of_earlier.append(torch.get_num_threads())


def begin(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def of_a_new_one():
    found = []
    begin(lambda: found.append(torch.get_num_threads())).join()
    return found[0]


waiting = begin(earlier)
counted.wait(30)
before = of_a_new_one()
begin(lambda: torch.set_num_threads(1)).join()
may_count_again.set()
waiting.join()
seen = {"main": torch.get_num_threads(), "an earlier one": of_earlier[-1], "a new one": of_a_new_one()}
print("before, a new thread has", before, "as the main one")
print("expected, after a thread that has ended set 1 for itself: all 3, or, of a setting of the process, all 1")
print("seen:", seen)
as_described = before == 3 and seen == {"main": 3, "an earlier one": 3, "a new one": 1}
sys.exit(None if as_described else "this has changed")
PYTHON
