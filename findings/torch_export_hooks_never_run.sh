#!/usr/bin/env bash
# A program of torch.export gives, as `program.module()`, a model whose named_modules() lists the layers under their
# names, with their parameters, and takes hooks on them; but none of the layers runs, so the hooks never fire, and
# nothing says so.
#
# Expected: a module that is listed in named_modules(), holds the weights that the forward uses and accepts
# register_forward_hook, calls the hook in the forward.
#
# It hurts every library of class activation maps and attributions that works by hooks: the layer is found by its
# name, and afterwards there is no activation, or an old one from before. The whole model's own hook does fire, so
# that a check on the model passes.
#
# torch.export.unflatten(program), of the same program, does call the hooks. cfcam_gpu raises an error for a layer
# that did not run, and names unflatten in it (cfcam_gpu/hooks/activation_hook.py).
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
import warnings

import torch
from torch import nn

print("torch", torch.__version__)
model = nn.Sequential(
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
).eval()
images = torch.randn(2, 3, 8, 8)
program = torch.export.export(model, (images,))


def fired(module):
    """Names of layers with weights, and those of them whose hooks ran; whether anything was said."""
    names = [
        name
        for name, part in module.named_modules()
        if name and next(part.parameters(recurse=False), None) is not None
    ]
    ran = []
    handles = [
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in names
    ]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.testing.assert_close(module(images), model(images) if module is not model else module(images))
    for handle in handles:
        handle.remove()
    return names, ran, len(told)


exported = fired(program.module())
unflattened = fired(torch.export.unflatten(program))
print("expected: (layers, those whose hooks ran) are (['0.0', '3'], ['0.0', '3'])")
print("seen, program.module():  ", exported[:2], "with", exported[2], "warnings")
print("seen, unflatten(program):", unflattened[:2])
layers = ["0.0", "3"]
as_described = exported == (layers, [], 0) and unflattened[:2] == (layers, layers)
sys.exit(None if as_described else "this has changed")
PYTHON
