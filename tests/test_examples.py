"""Every example runs, and explains something."""

import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples"
HELPERS = {"photographs", "plain_nms"}
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.filterwarnings("default:::(timm|torchvision|transformers|efficientnet_lite)")
def test_it_runs(script, tmp_path, monkeypatch, peer):
    for library in ("timm", "torchvision", "transformers"):
        peer(library)
    boxes = peer("torchvision.ops.boxes")
    monkeypatch.setattr(boxes, "nms", boxes.nms)  # an example may replace it
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("sys.argv", [script, str(tmp_path)])
    with torch.random.fork_rng(devices=[]):
        found = runpy.run_path(str(FOLDER / f"{script}.py"))["result"]
    assert not found.empty.all()
    assert torch.isfinite(found.maps).all()
    assert len(list(tmp_path.glob("*.png"))) >= found.maps.flatten(0, -3).shape[0]
