"""Every example runs, and explains something."""

import math
from importlib.util import find_spec

import pytest
import torch

from examples.__main__ import NAMES, run

from .needs import lacking

#: Those that train a network, or measure: half a minute. What they call has tests of its own.
LONG = {"measure", "own_classes"}


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.long] * (one in LONG)) for one in NAMES])
@pytest.mark.filterwarnings("default:::(timm|torchvision|transformers|efficientnet_lite)")
def test_it_runs(name, tmp_path, monkeypatch, peer):
    for library in ("open_clip", "timm", "torchvision", "transformers"):
        peer(library)
    if name == "volumes" and find_spec("deepbet") is None:
        lacking("deepbet is not installed", "PEERS")
    boxes = peer("torchvision.ops.boxes")
    monkeypatch.setattr(boxes, "nms", boxes.nms)  # an example may replace it
    with torch.random.fork_rng(devices=[]):
        found = run(name, tmp_path)["result"]
    assert not found.empty.all()
    assert torch.isfinite(found.maps).all()
    assert len(list(tmp_path.glob("*.png"))) >= math.prod(found.maps.shape[: -len(found.size)])
