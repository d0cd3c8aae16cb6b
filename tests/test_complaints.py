"""What users of other CAM libraries complained of, by the number of their issue: none of it happens here.

A number alone is an issue of jacobgil/pytorch-grad-cam.
"""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM, methods
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.metrics import imputation, road
from cfcam_gpu.results import overlays

from .small import Network, assert_same, draw

BY_GRADIENT = [name for name, method in methods.METHODS.items() if method.from_gradients]


@pytest.fixture
def model():
    return Network().eval()


@pytest.fixture
def images():
    return draw(0)


def hooks(model):
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, table)) for module in model.modules() for table in tables]


class BrightIsClassOne(nn.Module):
    """Its second logit is the image's mean brightness, its first the opposite."""

    def __init__(self):
        super().__init__()
        self.features = nn.Identity()

    def forward(self, images):
        brightness = self.features(images).mean(dim=(1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1)


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_356_maps_and_overlays_are_made_where_the_activations_are(method):
    """Speed: copies from the device to the host dominate. Tensors on the meta device have no values to bring."""
    activations, gradients = torch.rand(2, 6, 4, 4, device="meta"), torch.rand(2, 1, 6, 4, 4, device="meta")
    maps = upsample(methods.METHODS[method].from_gradients(activations, gradients)[:, 0], (16, 16))
    assert maps.device.type == "meta"
    assert overlays.overlay(maps, torch.rand(2, 3, 16, 16, device="meta")).shape == (2, 16, 16, 3)


def test_quantus_332_road_fills_all_removals_at_once_on_the_device(monkeypatch):
    """ROAD takes 6 s an image, whatever the device."""
    filled = []

    def impute(images, removed):
        filled.append(len(images))
        return imputation.impute(images, removed)

    def brought(*args, **kwargs):
        pytest.fail("ROAD brought a tensor to the host")

    monkeypatch.setattr(sys.modules["cfcam_gpu.metrics.road"], "impute", impute)
    for name in ("numpy", "cpu", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, brought)
    found = road(BrightIsClassOne(), torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32))
    assert found.lerf.shape == (2, 9)
    assert filled == [1, 2 * 2 * 9]  # the one tells what a forward takes


def test_342_what_comes_before_the_layer_may_be_a_compiled_engine(model, images):
    """TensorRT is wanted. Only the layers behind the target layer need autograd; an engine may do all before them."""

    class Engine(nn.Module):
        def forward(self, images):
            with torch.inference_mode():
                return model.early(torch.from_numpy(images.numpy()))

    class Deployed(nn.Module):
        def __init__(self):
            super().__init__()
            self.engine = Engine()
            self.late, self.head = model.late, model.head

        def forward(self, images):
            return self.head(self.late(self.engine(images)).mean(dim=(2, 3)))

    assert_same(CFCAM(Deployed(), "engine")(images), CFCAM(model, "early")(images))


def test_132_195_and_pull_575_nothing_is_kept_between_calls(model, images):
    """Leaks: hooks and graphs stay alive."""
    activations = []
    model.late.register_forward_hook(lambda module, args, output: activations.append(weakref.ref(output)))
    before = hooks(model)
    explain = CFCAM(model, "late")
    results = [explain(images) for _ in range(3)]
    assert hooks(model) == before
    gc.collect()
    assert len(activations) > len(results), "and some of one image, to see where the layer's positions are in it"
    assert not [kept for kept in activations if kept() is not None]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_monai_saliency_inferer_adds_hooks_at_every_call(model, images):
    before = hooks(model)
    for _ in range(3):
        CFCAM(model)(images)
        CAM(model, "late")(images)
        CAM(model, "late", method="scorecam")(images)
        assert hooks(model) == before


def test_183_torch_cam_80_an_in_place_relu_behind_the_layer_changes_nothing(model, images):
    """It breaks backward hooks (both are pull requests)."""
    in_place = CFCAM(model, "early.1")(images)
    model.early[2].inplace = False
    assert_same(in_place, CFCAM(model, "early.1")(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_96_198_493_half_precision_is_explained_drawn_and_saved(model, images, dtype, tmp_path):
    """float16 outputs are rejected by OpenCV."""
    images = images.to(dtype)
    result = CFCAM(model.to(dtype), "late")(images)
    assert result.maps.dtype == torch.float32
    assert result.maps.isfinite().all()
    assert result.overlay(images).dtype == torch.uint8
    saved = [np.load(path) for path in result.save(tmp_path, images=images) if path.suffix == ".npy"]
    assert [array.dtype for array in saved] == [np.float32] * 3


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_a_flat_map_in_float16_is_not_nan(method):
    """torch-cam divides by a range of 0 plus 1e-8, which is 0 in float16."""
    for value in (0.0, 1e-4, 1.0):
        flat = torch.full((1, 4, 3, 3), value, dtype=torch.float16)
        maps = upsample(methods.METHODS[method].from_gradients(flat, flat[:, None]), (9, 9))
        assert maps.isfinite().all()
        assert maps.amax() in (0, 1)


def test_254_monai_3035_frozen_models_give_the_same_maps(model, images):
    """Frozen parameters give a cryptic error."""
    expected = CFCAM(model)(images)
    model.requires_grad_(False)
    assert_same(CFCAM(model)(images), expected)


@pytest.mark.parametrize("targets", [[1, 2], torch.tensor([1, 2]), [lambda logits: logits[0]] * 2], ids=type)
def test_264_328_fewer_targets_than_images_are_refused(model, images, targets):
    """They silently yield zero maps."""
    model.register_forward_pre_hook(lambda module, args: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=r"target: expected one for each of the 3 images; got 2"):
        CFCAM(model, "late")(images, target=targets)
    with pytest.raises(ValueError, match=r"target: expected one for each of the 3 images; got 2"):
        CAM(model, "late")(images, target=targets)


def test_564_one_call_explains_every_class(model, images):
    """One call for each class is needed."""
    forwards = []
    model.register_forward_pre_hook(lambda module, args: forwards.append(len(args[0])))
    explain = CFCAM(model, "late")
    explain(images)
    forwards.clear()
    result = explain(images, target=[range(5)] * 3)
    assert forwards == [3]
    for index in range(5):
        torch.testing.assert_close(result.maps[:, index], CFCAM(model, "late")(images, target=index).maps)


def test_267_raw_scores_come_beside_normalised_ones(model, images):
    result = CFCAM(model, "late")(images)
    assert torch.equal(result.logits, model(images))
    assert result.raw_maps.shape == (3, 5, 4)
    assert result.raw_maps.amax() != 1
    assert torch.equal(result.maps, upsample(result.raw_maps, (12, 10)))


class Transformer(nn.Module):
    """A vision transformer of two blocks whose head reads the class token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True) for _ in range(2))
        )
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens)[:, 0])


def test_363_513_the_last_block_of_a_transformer_is_refused_and_the_one_before_works():
    """Its patches have no gradient, so the map is blank."""
    model, images = Transformer().eval(), torch.randn(2, 3, 16, 20)
    with pytest.raises(ValueError, match=r"at blocks\.1 the gradient is zero at all patches.*before"):
        CAM(model, "blocks.1")(images)
    assert not CFCAM(model)(images).empty.any()
    result = CAM(model, "blocks.0", method="layercam")(images)
    assert result.raw_maps.shape == (2, 4, 5)
    assert not result.empty.any()


@pytest.mark.parametrize("answer", [lambda x: (x, None), lambda x: {"logits": x}, lambda x: [x]], ids=range(3))
def test_386_models_may_return_a_tuple_or_a_dict(model, images, answer):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            return answer(self.inner(images))

    assert_same(CFCAM(Wrapped(), "inner.late")(images), CFCAM(model, "late")(images))


def test_340_data_parallel_gives_a_map_for_each_image(model, images):
    """It returns half of the batch."""
    assert_same(CFCAM(nn.DataParallel(model), "late")(images), CFCAM(model, "late")(images))


def test_507_the_model_is_not_switched_to_another_mode(model, images):
    """YOLO's train() begins a training."""

    class Yolo(Network):
        def train(self, mode=True):
            pytest.fail("the model's mode was changed")

        eval = train

    yolo = Yolo()
    for module in yolo.modules():
        module.training = False
    CFCAM(yolo, "late")(images)
    CAM(yolo, "late")(images)
    assert not any(module.training for module in yolo.modules())


def test_214_torch_cam_186_208_blank_maps_and_nan_are_told(model, images):
    """Maps are blank or NaN without a word."""
    result = CFCAM(model, "late")(images, target=lambda logits: 0 * logits.sum())
    assert result.empty.all()
    assert torch.equal(result.maps, torch.zeros(3, 12, 10))
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 1 has NaN"):
        CFCAM(model, "late")(images)
    with pytest.raises(ValueError, match="image 1 has NaN"):
        CAM(model, "late")(images)


@pytest.mark.parametrize("method", ["cfcam", *BY_GRADIENT])
def test_monai_tutorials_1796_more_evidence_is_a_higher_value_and_a_hotter_colour(method):
    """The polarity is inverted."""
    images = torch.zeros(1, 3, 8, 8)
    images[..., :3, :3] = 1
    model = BrightIsClassOne()
    maps = CAM(model, "features", method=method)(images, target=1).maps
    assert maps[0, 1, 1] > maps[0, 6, 6]
    red, _, blue = overlays.overlay(maps, images)[0, 1, 1].int()
    assert red > blue


@pytest.mark.parametrize("method", ["smoothgradcam++", "randomcam"])
def test_torch_cam_119_noise_is_seeded_and_the_callers_generator_stays(model, images, method):
    """Random methods can't be repeated."""
    state = torch.get_rng_state()
    first = CAM(model, "early", method=method)(images).maps
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(CAM(model, "early", method=method)(images).maps, first)
    assert not torch.equal(CAM(model, "early", method=method, seed=1)(images).maps, first)
