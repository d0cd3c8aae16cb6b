"""Models that segment what is pointed at: a map for each point, from one forward of the image encoder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import Config, explain_point

from ..needs import module

SIDE = 128
DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}


def sam():
    transformers = module("transformers", "PEERS")
    vision = {
        "hidden_size": 32,
        "output_channels": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "window_size": 3,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
        "num_pos_feats": 16,
    }
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    torch.manual_seed(0)
    sizes = {"longest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    images = transformers.SamImageProcessor(size=sizes[0], pad_size=sizes[1])
    return transformers.SamModel(config).eval(), transformers.SamProcessor(images)


def sam2():
    transformers = module("transformers", "PEERS")
    backbone = {
        "hidden_size": 16,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "mlp_ratio": 2.0,
    }
    vision = {
        "backbone_config": backbone | {"model_type": "sam2_hiera_det_model"},
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    }
    config = transformers.Sam2Config(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    torch.manual_seed(0)
    images = transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.Sam2Model(config).eval(), transformers.Sam2Processor(images)


MAKERS = {
    "sam": (sam, "vision_encoder.neck", "vision_encoder.neck.layer_norm1"),
    "sam2": (sam2, "vision_encoder.neck.convs.1.input", "vision_encoder.backbone.blocks.1"),
}


@pytest.fixture(scope="module", params=MAKERS)
def made(request):
    make, coarse, fine = MAKERS[request.param]
    return (*make(), coarse, fine)


def photographs():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in [(50, 90, 3), (100, 70, 3)]]


POINTS = [[(10, 20), (80, 40)], [(60, 99), (3, 4)]]


def by_hand(model, inputs, layer, extent):
    """Grad-CAM at a layer (1, C, h, w), or at what enters it, for each point, and the masks' logits, of one image."""
    kept = []
    owner = model.get_submodule(layer.removesuffix(".input"))
    if layer.endswith(".input"):
        handle = owner.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    else:
        handle = owner.register_forward_hook(lambda module, args, output: kept.append(output))
    output = model(pixel_values=inputs["pixel_values"], input_points=inputs["input_points"].float())
    handle.remove()
    maps, masks = [], []
    for p in range(output.iou_scores.shape[1]):
        mask = output.pred_masks[0, p, output.iou_scores[0, p].argmax()]
        inside = mask > 0
        inside[extent[0] :] = False
        inside[:, extent[1] :] = False
        (gradient,) = torch.autograd.grad(mask[inside].mean(), kept[0], retain_graph=True)
        maps.append((gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()[0])
        masks.append(mask)
    return torch.stack(maps).detach(), torch.stack(masks).detach()


def test_maps_are_those_of_autograd_by_hand(made):
    model, processor, coarse, _ = made
    result = explain_point(model, processor, photographs(), POINTS, method="gradcam")
    assert [each.name for each in result.layers] == [coarse]
    # Of SAM's 32 x 32 the image has 18 rows, or 23 columns; the rest is padding.
    extents = [(18, 32), (32, 23)] if model.config.model_type == "sam" else [(32, 32)] * 2
    for b, (photograph, points, extent) in enumerate(zip(photographs(), POINTS, extents)):
        inputs = processor(images=photograph, input_points=[[[list(point)] for point in points]], return_tensors="pt")
        maps, masks = by_hand(model, inputs, coarse, extent)
        largest = maps.amax()  # with such weights a small number
        torch.testing.assert_close(result.raw_maps[b] / largest, maps / largest, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(result.logits[b], masks, atol=1e-5, rtol=1e-4)
        assert maps.amax() > 0
        mask = torch.nn.functional.interpolate(masks[None], size=(SIDE, SIDE), mode="bilinear")[0] > 0
        rows, columns = inputs["reshaped_input_sizes"][0].tolist() if "reshaped_input_sizes" in inputs else (SIDE, SIDE)
        assert torch.equal(result.masks[b, :, :rows, :columns], mask[:, :rows, :columns])
        assert result.masks[b].sum() == mask[:, :rows, :columns].sum()
        assert result.masks[b].any()


def test_layers_are_the_image_encoders_even_for_one_point(made):
    model, processor, coarse, fine = made
    result = explain_point(model, processor, photographs()[1], POINTS[1])
    alone = explain_point(model, processor, photographs()[1], POINTS[1][0], target_layer=result.layers)
    assert [each.name for each in result.layers] == [fine, coarse]
    assert alone.maps.shape == (1, 1, SIDE, SIDE)
    torch.testing.assert_close(alone.maps[:, 0], result.maps[:, 0], atol=1e-3, rtol=1e-3)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.activation = nn.Conv2d(3, 4, 4, stride=4), nn.ReLU()
        self.runs = 0

    def forward(self, images):
        self.runs += 1
        return SimpleNamespace(last_hidden_state=self.activation(self.convolution(images)))


class Quarters(nn.Module):
    """With SAM's interface: of a point the mask is the quarter of the image that it is in, seen by that quarter alone.

    Three masks are offered; that in the middle is rated best, and the others are all of the image.
    """

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(model_type="sam")
        self.vision_encoder = Encoder()
        nn.init.constant_(self.vision_encoder.convolution.weight, 1 / 48)
        nn.init.zeros_(self.vision_encoder.convolution.bias)
        self.eval()

    def forward(self, pixel_values, input_points):
        embedding = self.vision_encoder(pixel_values).last_hidden_state.mean(dim=1)[:, None]
        side = embedding.shape[-1]
        half = (torch.arange(side) >= side // 2).int()
        x, y = ((input_points[:, :, 0] >= pixel_values.shape[-1] / 2).int()).unbind(dim=-1)
        inside = (half[:, None] == y[..., None, None]) & (half == x[..., None, None])
        masks = torch.where(inside, embedding, -1.0)
        everywhere = embedding.expand_as(masks)
        scores = torch.tensor([0.1, 0.9, 0.5]).expand(*masks.shape[:2], 3)
        return SimpleNamespace(pred_masks=torch.stack([everywhere, masks, everywhere], dim=2), iou_scores=scores)


def pictures(count=2):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.1


CORNERS = [[(30, 30), (1, 30)], [(30, 1), (1, 1)]]


@pytest.mark.parametrize(
    ("method", "options"), [("cfcam", {"config": Config(combine="elementwise")}), ("layercam", {})]
)
def test_each_point_has_its_map_where_its_mask_comes_from(method, options):
    result = explain_point(
        Quarters(), None, pictures(), CORNERS, method=method, target_layer="vision_encoder.activation", **options
    )
    quarters = torch.nn.functional.avg_pool2d(result.maps, 16).flatten(2)
    assert quarters.argmax(dim=2).tolist() == [[3, 2], [1, 0]]
    assert (quarters.amax(dim=2) / quarters.sum(dim=2)).min() > 0.9
    masked = torch.nn.functional.avg_pool2d(result.masks.float(), 16).flatten(2)
    assert masked.argmax(dim=2).tolist() == [[3, 2], [1, 0]]
    assert (masked.sum(dim=2) <= 1).all()
    assert torch.equal(result.points, torch.tensor(CORNERS).float())


def test_the_encoder_runs_once_for_all_points_of_an_image():
    model, name = Quarters(), "vision_encoder.activation"

    def runs(count, layer):
        model.vision_encoder.runs = 0
        result = explain_point(model, None, pictures(count), CORNERS[:count], target_layer=layer)
        return model.vision_encoder.runs, result.layers

    found, known = runs(1, name)
    assert runs(2, name)[0] == found + 1  # what was found of the layer is found once
    assert runs(2, known)[0] == 2


def test_a_part_keeps_its_points_and_masks():
    result = explain_point(Quarters(), None, pictures(), CORNERS, target_layer="vision_encoder.activation")
    assert result.classes == [["point (30, 30)", "point (1, 30)"], ["point (30, 1)", "point (1, 1)"]]
    assert result[1].classes == result.classes[1:]
    assert torch.equal(result[1].masks, result.masks[1:])
    assert torch.equal(result[1].overlay(), result.overlay()[1:])


def test_a_point_without_a_mask_has_an_empty_map():
    model = Quarters()
    nn.init.constant_(model.vision_encoder.convolution.bias, -9.0)
    result = explain_point(model, None, pictures(1), CORNERS[:1], target_layer="vision_encoder.convolution")
    assert not result.masks.any()
    assert result.empty.all()


def refused(match, **changed):
    return pytest.param(changed, match, id=match)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        refused("^model: expected SamModel or Sam2Model of transformers; got Linear", model=nn.Linear(2, 2)),
        refused(r"^points: expected \(B, P, 2\), .* got shape \(2,\)", points=(1, 2)),
        refused(r"^points: expected \(B, P, 2\), .* got shape \(2, 2, 3\)", points=torch.zeros(2, 2, 3)),
        refused(r"^points: expected \(B, P, 2\) with B = 2, .* got \(1, 2, 2\)", points=CORNERS[:1]),
        refused("^points: expected x and y of each.* got str", points="here"),
        refused("^points: expected finite numbers", points=[[(1, float("nan"))]] * 2),
        refused(r"^points: expected x and y inside image 1, 32 wide .* got \(3, 32\)", points=[[(1, 2)], [(3, 32)]]),
        refused(r"^points: expected x and y inside image 0, .* got \(-1, 2\)", points=[[(-1, 2)], [(3, 3)]]),
        refused("^processor: expected the model's own", images=photographs()),
        refused("^images: expected a PIL image, .* got a list of Tensor", images=list(pictures())),
        refused("^images: expected a floating dtype", images=pictures().byte()),
        refused("^method: ", method="no-cam"),
        refused("^augment: _Mask names places in the image", augment="flip"),
    ],
)
def test_what_is_refused(changed, match):
    given = {"model": Quarters(), "processor": None, "images": pictures(), "points": CORNERS}
    with pytest.raises((TypeError, ValueError), match=match):
        explain_point(**given | {"target_layer": "vision_encoder.activation"} | changed)
