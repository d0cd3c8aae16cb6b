#!/usr/bin/env bash
# What three of Quantus' metrics say of an image depends on the other images in the call:
# - EffectiveComplexity, by default: maps are "normalised by the maximum absolute value of the explanation", which is
#   that of all explanations of the batch. Of a map beside one of larger values nothing is above the threshold.
# - AttributionLocalisation(weighted=True): the size of an image is taken of the images from the third on. Of one or two
#   the score is infinite.
# - IROF: beside an image with more segments the curve of one with fewer goes on with zeros, and the step down to them
#   counts as area.
#
# Guess before it was run: as it is, from the source.
#
# Expected: a list of scores, one for each image, has of each what it has alone.
#
# It hurts any mean over a data set: it changes with the batch size and with the order of the images, and methods
# whose maps have other scales are compared by their scales.
#
# cfcam_gpu's metrics are of each image alone, and its tests hold each to that (tests/metrics).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==1.26.4 scipy==1.15.3 pandas==2.3.3 scikit-image==0.25.2 scikit-learn==1.7.2
pip install matplotlib==3.10.8 opencv-python-headless==4.11.0.86 tqdm==4.67.1 cachetools==6.2.2
pip install --no-deps quantus==0.6.0

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import quantus
import torch

print("quantus", version("quantus"), "torch", torch.__version__, "numpy", np.__version__)
random = np.random.default_rng(0)
torch.manual_seed(0)
model = torch.nn.Sequential(
    *(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
    *(torch.nn.Linear(4, 3), torch.nn.Softmax(dim=1)),
).eval()
blocks = np.kron(random.random((1, 2, 2)), np.ones((1, 16, 16)))  # few segments
images = np.stack([random.random((1, 32, 32)), blocks]).astype(np.float32)
maps = random.random((2, 1, 32, 32)).astype(np.float32)
masks = np.zeros((2, 1, 32, 32))
masks[..., :16, :16] = 1


def score(metric, of, maps=maps, **more):
    given = {"x_batch": images[of], "y_batch": np.zeros(len(of), int), "a_batch": maps[of].copy(), **more}
    return [float(one) for one in metric(model=model, channel_first=True, **given)]


complexity = quantus.EffectiveComplexity(eps=1e-2, disable_warnings=True)
large = maps * np.array([1, 1000], np.float32)[:, None, None, None]
alone, beside = score(complexity, [0])[0], score(complexity, [0, 1], large)[0]
print("expected: one number of a map, alone and beside one of a thousand times its values; seen:", alone, beside)
localisation = quantus.AttributionLocalisation(weighted=True, disable_warnings=True)
two, three = (score(localisation, of, s_batch=masks[of])[0] for of in ([0, 1], [0, 1, 1]))
print("expected: one number of two images and of three; seen:", two, round(three, 4))
irof = quantus.IROF(segmentation_method="felzenszwalb", perturb_baseline="mean", disable_warnings=True)
irof.return_aggregate = False
own, other = score(irof, [1])[0], score(irof, [0, 1])[1]
print("expected: one number of an image, alone and behind another; seen:", round(own, 4), round(other, 4))
as_described = alone > 900 and beside == 0 and np.isinf(two) and three < 1 and abs(own - other) > 0.1
sys.exit(None if as_described else "this has changed")
PYTHON
