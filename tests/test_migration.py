"""docs/migration.md: another library's call and ours give the same maps."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from .pages import ROOT, blocks

PAGE = ROOT / "docs" / "migration.md"
PAIRS = {heading: list(pair) for heading, pair in itertools.groupby(blocks(PAGE), key=lambda block: block.heading)}
#: What stands before a heading's colon, and what is imported for it.
LIBRARIES = {
    "pytorch-grad-cam": "pytorch_grad_cam",
    "torch-cam": "torchcam",
    "Captum": "captum",
    "MONAI": "monai",
    "Quantus": "quantus",
}
#: Sections that say that the two sides differ.
DIFFER = {f"pytorch-grad-cam: {about}" for about in ("overlays", "several layers", "YOLO", "DETR")}
#: Sections that compare a figure for each image, and no maps.
FIGURES = {"pytorch-grad-cam: drop in confidence", "Quantus: pointing game"}
TOLERANCE = 1e-4


def test_the_page_is_made_of_pairs():
    assert {len(pair) for pair in PAIRS.values()} == {2}
    assert set(PAIRS) >= DIFFER | FIGURES
    assert {heading.partition(":")[0] for heading in set(PAIRS) - DIFFER} == set(LIBRARIES)


def scaled(maps):
    """The maps of each image (B, ...) from their minimum to their maximum, float64."""
    maps = np.asarray(torch.as_tensor(maps).detach(), dtype=np.float64)
    axes = tuple(range(1, maps.ndim))
    low, high = (extreme(maps, axis=axes, keepdims=True) for extreme in (np.min, np.max))
    assert (high > low).all()
    return (maps - low) / (high - low)


class _Yolo(nn.Module):
    """A detector with YOLOv8's output (B, 4 + 3, 64): boxes around the centres of an 8 x 8 grid, and three scores."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)
        centre = torch.arange(8, dtype=torch.float32) * 16 + 8
        self.register_buffer("centres", torch.stack(torch.meshgrid(centre, centre, indexing="xy")).flatten(1)[None])

    def forward(self, x):
        seen = self.backbone(x)
        offsets, sizes = self.boxes(seen).flatten(2).sigmoid().chunk(2, dim=1)
        return torch.cat([self.centres + 8 * offsets, 16 + 16 * sizes, self.classes(seen).flatten(2).sigmoid()], dim=1)


def _detr(transformers):
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "num_labels": 3}
    config = transformers.DetrConfig(backbone_config=backbone, use_timm_backbone=False, **sizes, **heads)
    return transformers.DetrForObjectDetection(config).eval()


def _clip(open_clip):
    vision = {"image_size": 128, "patch_size": 16, "layers": 2, "width": 64, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 32, "heads": 2}
    return open_clip.CLIP(16, vision, text).eval(), open_clip.SimpleTokenizer()


@pytest.fixture
def names(peer, heading):
    """What the page takes for granted."""
    resnet18 = peer("torchvision.models").resnet18
    torch.manual_seed(0)
    found = {"torch": torch, "model": resnet18(num_classes=10).eval(), "images": torch.rand(2, 3, 128, 128)}
    match heading.rpartition(" ")[2]:
        case "YOLO":
            found["yolo"] = _Yolo().eval()
        case "DETR":
            found["detr"] = _detr(peer("transformers"))
        case "CLIP":
            found["clip"], found["tokenizer"] = _clip(peer("open_clip"))
    return found


@pytest.mark.parametrize("heading", PAIRS)
def test_both_sides_of_a_pair_give_the_same_maps(heading, names, peer):
    peer(LIBRARIES[heading.partition(":")[0]])
    for block in PAIRS[heading]:
        block.run(names)
    theirs, ours = names["theirs"], names["ours"]
    assert len(theirs) == len(ours) == 2
    if heading in FIGURES:
        np.testing.assert_allclose(np.asarray(ours, dtype=np.float64), np.asarray(theirs), atol=TOLERANCE)
    elif heading not in DIFFER:
        np.testing.assert_allclose(scaled(ours), scaled(theirs), atol=TOLERANCE)
