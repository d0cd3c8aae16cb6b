#!/usr/bin/env bash
# On the CPU a batch norm's gradient of one image is wrong where what comes back to it has its channels last, as of
# tokens: bn(x).flatten(2).permute(0, 2, 1). Of two images it is right. Layer norms and group norms have right ones.
#
# Guess before it was run: the kernel takes the order of the channels from its input alone.
#
# Expected: in eval mode a batch norm that was never trained multiplies by 1 / sqrt(1 + eps), and so does its gradient,
# whatever the strides of what comes back.
#
# It hurts gradients of hybrids that make tokens behind a batch norm, such as transformers' CvT, asked for one image at
# a time on the CPU: saliency maps, class activation maps, attacks. They are noise that looks like an answer.
#
# cfcam_gpu makes what comes back to batch norms on the CPU contiguous (cfcam_gpu/hooks/gradients.py).
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
from torch import nn

print("torch", torch.__version__)
torch.manual_seed(0)


def gap(norm, count):
    """How far the gradient is from that of a copy in order, in shares of it."""
    weights = torch.randn(count, 16, 8)  # of tokens: (B, places, C)
    found = []
    for in_order in (True, False):
        images = torch.randn(count, 8, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        made = norm(images)
        if in_order:
            made.register_hook(lambda gradient: gradient.contiguous())
        found += torch.autograd.grad((made.flatten(2).permute(0, 2, 1) * weights).sum(), images)
    return float((found[1] - found[0]).abs().max() / found[0].abs().max())


seen = [gap(nn.BatchNorm2d(8).eval(), 1), gap(nn.BatchNorm2d(8).eval(), 2), gap(nn.GroupNorm(2, 8).eval(), 1)]
print("expected: 0 of a batch norm and one image, of two images, and of a group norm")
print("seen:    ", *(f"{one:.2g}" for one in seen))
sys.exit(None if seen[0] > 0.1 and max(seen[1:]) < 1e-4 else "this has changed")
PYTHON
