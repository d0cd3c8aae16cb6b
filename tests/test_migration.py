"""docs/migration.md: another library's call and ours give the same maps."""

import itertools

import numpy as np
import pytest
import torch

from .pages import ROOT, blocks

PAGE = ROOT / "docs" / "migration.md"
PAIRS = {heading: list(pair) for heading, pair in itertools.groupby(blocks(PAGE), key=lambda block: block.heading)}
#: What stands before a heading's colon, and what is imported for it.
LIBRARIES = {"pytorch-grad-cam": "pytorch_grad_cam", "torch-cam": "torchcam", "Captum": "captum", "MONAI": "monai"}
#: Sections that say that the two sides differ.
DIFFER = {"pytorch-grad-cam: overlays", "pytorch-grad-cam: several layers"}
TOLERANCE = 1e-4


def test_the_page_is_made_of_pairs():
    assert {len(pair) for pair in PAIRS.values()} == {2}
    assert set(PAIRS) >= DIFFER
    assert {heading.partition(":")[0] for heading in set(PAIRS) - DIFFER} == set(LIBRARIES)


def scaled(maps):
    """The maps of each image (B, ...) from their minimum to their maximum, float64."""
    maps = np.asarray(torch.as_tensor(maps).detach(), dtype=np.float64)
    axes = tuple(range(1, maps.ndim))
    low, high = (extreme(maps, axis=axes, keepdims=True) for extreme in (np.min, np.max))
    assert (high > low).all()
    return (maps - low) / (high - low)


@pytest.fixture
def names(peer):
    """What the page takes for granted."""
    resnet18 = peer("torchvision.models").resnet18
    torch.manual_seed(0)
    model = resnet18(num_classes=10).eval()
    return {"torch": torch, "model": model, "images": torch.rand(2, 3, 128, 128)}


@pytest.mark.parametrize("heading", PAIRS)
def test_both_sides_of_a_pair_give_the_same_maps(heading, names, peer):
    peer(LIBRARIES[heading.partition(":")[0]])
    for block in PAIRS[heading]:
        block.run(names)
    theirs, ours = names["theirs"], names["ours"]
    assert len(theirs) == len(ours) == 2
    if heading not in DIFFER:
        np.testing.assert_allclose(scaled(ours), scaled(theirs), atol=TOLERANCE)
