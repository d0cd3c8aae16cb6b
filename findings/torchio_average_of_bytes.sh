#!/usr/bin/env bash
# torchio's GridAggregator with overlap_mode="average" adds up patches in their own type, which wraps around, and then
# divides: the average of equal patches in uint8 is another value, where enough of them overlap.
#
# Expected: the average. A volume that is cut into patches and put together again is the volume, as it is with "crop"
# and "hann", and with "average" in floating point. The result comes in floating point, whatever went in.
#
# Seen: 200 in uint8 comes back as 200 where one patch is, as 72 where two overlap, and as 8 where four or eight do;
# 30000 in int16 as 30000 and -2768. Nothing warns.
#
# It hurts maps and probabilities that are kept in bytes between the network and the aggregator to save memory: where
# patches overlap the values are others, which looks like what networks do at the edges of patches.
#
# cfcam_gpu's own sums are in floating point (cfcam_gpu/slides/stitching.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 torchio==1.2.1 SimpleITK==2.5.7

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import torch
import torchio

print("torchio", torchio.__version__, "torch", torch.__version__)


def seen(value, dtype, mode):
    """The values of a volume of one value, cut into overlapping patches and put together again."""
    volume = torchio.ScalarImage(tensor=torch.full((1, 12, 12, 12), value, dtype=dtype))
    sampler = torchio.GridSampler(torchio.Subject(volume=volume), patch_size=8, patch_overlap=4)
    aggregator = torchio.GridAggregator(sampler, overlap_mode=mode)
    for patch in sampler:
        place = torch.as_tensor(patch[torchio.LOCATION])[None]
        aggregator.add_batch(patch["volume"].data[None], place)
    return sorted({round(each) for each in aggregator.get_output_tensor().unique().tolist()})


CASES = [
    (200, torch.uint8, "average"),
    (200, torch.uint8, "crop"),
    (200, torch.uint8, "hann"),
    (200, torch.float32, "average"),
    (30000, torch.int16, "average"),
]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = [seen(*case) for case in CASES]
told = [warning for warning in told if "torchio" in str(warning.filename)]
for (value, dtype, mode), values in zip(CASES, found, strict=True):
    print(f"{dtype}, {mode}: expected {value}, seen {values}")
as_described = found[1:4] == [[200]] * 3 and found[0] == [8, 72, 200] and found[4] == [-2768, 30000]
sys.exit(None if as_described and not told else "this has changed")
PYTHON
