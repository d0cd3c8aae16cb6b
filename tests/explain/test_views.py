"""Augmentation, noise and several layers: for every method one explanation of them all, and what they are made of."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import CAM, CFCAM, Config
from cfcam_gpu.explain.views import TRANSFORMS, Views, resized
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.noise import noisy_copies

from ..small import Network, draw

NAMES = [name for name, method in METHODS.items() if method.layers == "one"]
SEVERAL = {"augment": ["flip", "rotate90"], "smooth": 2, "seed": 3}


@pytest.fixture(scope="module")
def model():
    return Network().eval()


@pytest.fixture(scope="module")
def images():
    return draw(0)


def large(raw_maps, size=(12, 10)):
    return functional.interpolate(raw_maps[:, None], size=size, mode="bilinear")[:, 0]


def over_maximum(maps):
    return maps / maps.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("name", NAMES)
def test_flip_is_the_mean_with_the_mirror_image_mirrored_back(name, model, images):
    explain = CAM(model, "late", method=name)
    plain = explain(images)
    mirrored = explain(images.flip(-1), plain.target).raw_maps
    found = CAM(model, "late", method=name, augment="flip")(images)
    expected = (large(plain.raw_maps) + large(mirrored).flip(-1)) / 2
    torch.testing.assert_close(found.raw_maps, expected)
    torch.testing.assert_close(found.maps, over_maximum(expected))
    assert torch.equal(found.target, plain.target)
    assert torch.equal(found.logits, plain.logits)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_undone(name):
    """What is seen at a pixel lands at that pixel: the network marks bright ones."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(0)
    images = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    found = CAM(model, "1", augment=name)(images, 0)
    torch.testing.assert_close(found.maps, over_maximum(images[:, 0]))
    assert not torch.equal(TRANSFORMS[name].apply(images), images)


@pytest.mark.parametrize("name", NAMES)
def test_smooth_is_the_mean_over_noisy_copies(name, model, images):
    explain = CAM(model, "late", method=name, noise=0.3, seed=7)
    clean = explain(images)
    generator = torch.Generator().manual_seed(7)
    expected = 0
    for _ in range(3):
        spread = torch.stack([0.3 * (image.max() - image.min()) for image in images])[:, None, None, None]
        noisy = images + spread * torch.randn(images.shape, generator=generator)
        expected = expected + large(explain(noisy, clean.target).raw_maps) / 3
    found = CAM(model, "late", method=name, smooth=3, noise=0.3, seed=7)(images)
    torch.testing.assert_close(found.raw_maps, expected)
    assert torch.equal(found.target, clean.target)
    torch.testing.assert_close(found.logits, clean.logits)


@pytest.mark.parametrize("fuse", [None, "mean", "max"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "cfcam"])
def test_layers_are_fused_each_over_its_maximum_at_the_images_size(name, fuse, model, images):
    each = [over_maximum(large(CAM(model, layer, method=name)(images).raw_maps)) for layer in ("early", "late")]
    found = CAM(model, ["early", "late"], method=name, fuse=fuse)(images)
    expected = torch.maximum(*each) if fuse == "max" else sum(each) / 2
    torch.testing.assert_close(found.raw_maps, expected)
    assert [layer.name for layer in found.layers] == ["early", "late"]
    assert found.size == (12, 10)


def test_two_layers_of_cf_cam_are_its_two_levels_unless_they_are_fused(model, images):
    levels = CAM(model, ["early", "late"], method="cfcam")(images)
    assert torch.equal(levels.raw_maps, CFCAM(model, ["early", "late"])(images).raw_maps)
    assert levels.config == Config.two_level()
    fused = CAM(model, ["early", "late"], method="cfcam", fuse="mean")(images)
    one = CAM(model, ["early", "late"], method="cfcam-one")(images)
    assert torch.equal(fused.raw_maps, one.raw_maps)
    assert fused.config == Config()


@pytest.mark.parametrize("layers", ["late", ["early", "late"]], ids=["one", "two"])
def test_cfcam_augments_and_smooths_as_cam_does(layers, model, images):
    found = CFCAM(model, layers, **SEVERAL)(images)
    expected = CAM(model, layers, method="cfcam", **SEVERAL)(images)
    assert torch.equal(found.maps, expected.maps)
    assert torch.equal(found.empty, expected.empty)
    assert found.labels is found.weights is found.eps is None
    assert found.config == expected.config == (Config() if layers == "late" else Config.two_level())
    plain = CFCAM(model, layers)
    clean = plain(images)
    raw = 0
    for noisy in noisy_copies(images, 2, 0.15, 3):
        raw = raw + large(plain(noisy, clean.target).raw_maps) / 6
        raw = raw + large(plain(noisy.flip(-1), clean.target).raw_maps).flip(-1) / 6
        turned = plain(noisy.rot90(1, (-2, -1)), clean.target).raw_maps
        raw = raw + large(turned, (10, 12)).rot90(-1, (-2, -1)) / 6
    torch.testing.assert_close(found.raw_maps, raw)
    with pytest.raises(ValueError, match=r"components: .* this explanation is of several looks \(augment, smooth, fus"):
        found.components(images)


def test_the_saturation_of_a_configuration_is_applied_once(model, images):
    found = CFCAM(model, ["early", "late"], augment="flip")(images)
    s = found.config.saturation
    shown = over_maximum(found.raw_maps)
    torch.testing.assert_close(found.maps, shown * (1 + s) / (shown + s))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bytes(name, model, images):
    first, again = (CAM(model, ["early", "late"], method=name, **SEVERAL)(images).maps for _ in range(2))
    assert torch.equal(first, again)
    other = CAM(model, ["early", "late"], method=name, **{**SEVERAL, "seed": 4})(images).maps
    assert not torch.equal(first, other)
    assert first.shape == (3, 12, 10)
    assert bool((first.amax(dim=(1, 2)) == 1).all())


def test_the_generator_of_the_caller_is_left_alone(model, images):
    before = torch.get_rng_state()
    CAM(model, "late", method="smoothgradcam++", smooth=2)(images)
    CAM(model, "late", method="randomcam")(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layers", ["late", ["early", "late"]], ids=["one", "two"])
@pytest.mark.parametrize("target", [[[0, 3], [2, 1], [4, 4]], lambda logits: logits[1] - logits[2]], ids=["BT", "call"])
def test_all_targets_work(layers, target, model, images):
    options = {"method": "layercam", "augment": ["flip"], "smooth": 2}
    found = CAM(model, layers, **options)(images, target)
    if callable(target):
        assert found.target is None
        assert found.maps.shape == (3, 12, 10)
        return
    assert found.maps.shape == (3, 2, 12, 10)
    assert found.target.tolist() == target
    for t in range(2):
        alone = CAM(model, layers, **options)(images, [row[t] for row in target])
        torch.testing.assert_close(found.maps[:, t], alone.maps)


def test_the_target_is_the_class_predicted_of_the_image_itself(images):
    """Where noise and mirror images would have it otherwise."""
    model = Network().eval()
    clean = model(images).argmax(dim=1)
    seen = []

    def score(logits):
        seen.append(int(logits.argmax()))
        return logits[0]

    options = {"smooth": 4, "noise": 3.0, "augment": "flip"}
    CAM(model, "late", **options)(images, score)
    assert len(seen) == 3 * 4 * 2
    assert seen != clean.tolist() * 8, "the noise has to change predictions"
    found = CAM(model, "late", **options)(images)
    assert torch.equal(found.target, clean)
    assert torch.equal(found.maps, CAM(model, "late", **options)(images, clean).maps)


def test_a_transform_of_ones_own(model, images):
    """A shift by whole steps of the layer, and a darker image; of these the map goes back, or stays."""
    shift = (lambda x: x.roll(2, -1), lambda maps: maps.roll(-2, -1))
    darker = (lambda x: 0.5 * x, lambda maps: maps)
    explain = CAM(model, "late")
    plain = explain(images)
    target = plain.target
    rolled = large(explain(images.roll(2, -1), target).raw_maps).roll(-2, -1)
    dark = large(explain(0.5 * images, target).raw_maps)
    found = CAM(model, "late", augment=[shift, darker, "flip"])(images)
    flipped = large(explain(images.flip(-1), target).raw_maps).flip(-1)
    torch.testing.assert_close(found.raw_maps, (large(plain.raw_maps) + rolled + dark + flipped) / 4)
    torch.testing.assert_close(CAM(model, "late", augment=shift)(images).raw_maps, (large(plain.raw_maps) + rolled) / 2)


@pytest.mark.parametrize("name", ["scorecam", "gradcam"])
def test_progress_of_many_looks_only_rises_and_ends(name, model, images):
    steps = []
    explain = CAM(model, ["early", "late"], method=name, smooth=2, augment="flip", memory=1 << 18)
    explain(images, progress=lambda done, total: steps.append(done / total))
    assert steps == sorted(steps)
    assert steps[-1] == 1
    assert len(steps) == 8 if name == "gradcam" else len(steps) > 8


def test_signals_and_volumes_are_resized_and_flipped():
    for size, small, mode in (((9,), (3,), "linear"), ((4, 6, 8), (2, 3, 4), "trilinear")):
        raw = torch.rand(2, 3, *small)
        large = functional.interpolate(raw, size=size, mode=mode, align_corners=False)
        torch.testing.assert_close(resized(raw, size), large)
        assert TRANSFORMS["flip"].apply(raw).shape == raw.shape
    huge = resized(torch.full((1, 2, 2), torch.finfo(torch.float32).max), (4, 4))
    assert torch.isfinite(huge).all()
    assert torch.equal(resized(torch.zeros(1, 2, 2), (4, 4)), torch.zeros(1, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "flop"}, "augment: expected 'flip', .* or a list of these; got 'flop'"),
        ({"augment": 3}, "augment: expected 'flip', .*; got 3"),
        ({"augment": torch.flip}, "augment: expected 'flip', .*; got <built-in method flip"),
        ({"augment": ["flip", 3]}, "augment: expected 'flip', .*; got 3"),
        ({"augment": [(torch.flip,)]}, "augment: expected 'flip'"),
        ({"smooth": -1}, "smooth: expected an int of at least 0; got -1"),
        ({"smooth": 2.0}, r"smooth: expected an int of at least 0; got 2\.0"),
        ({"seed": "x"}, "seed: expected an int of at least 0; got 'x'"),
        ({"noise": float("nan")}, "noise: expected a number of at least 0; got nan"),
    ],
)
def test_what_is_refused(options, message, model):
    for make in (CFCAM, CAM):
        with pytest.raises(ValueError, match=message):
            make(model, "late", **options)


def test_what_cam_alone_refuses(model):
    with pytest.raises(ValueError, match="fuse: expected None, 'mean' or 'max'; got 'sum'"):
        CAM(model, "late", fuse="sum")


def test_transforms_that_go_wrong_are_named(model, images):
    crop = (lambda x: x[..., 2:, 2:], lambda maps: maps)
    with pytest.raises(
        ValueError, match=r"augment: expected what undoes transform 0 to bring maps .* back to the images"
    ):
        CAM(model, "late", augment=[crop])(images)
    with pytest.raises(ValueError, match="augment: expected transform 1 to give 3 images of 4 axes; got shape"):
        CAM(model, "late", augment=["flip", (lambda x: x[:1], lambda maps: maps)])(images)
    with pytest.raises(ValueError, match=r"augment: 'rotate90' needs two spatial axes; got images \(2, 3, 8\)"):
        Views.read("rotate90", 0, 0.1, 0).explain(model, [], torch.zeros(2, 3, 8), None)


def test_no_graph_holds_several_looks(model, images):
    with pytest.raises(ValueError, match="cuda_graph: a graph holds one look at the images"):
        CFCAM(model, "late", augment="flip").cuda_graph(images)


def test_a_map_of_nothing_is_empty(model, images):
    found = CAM(model, ["early", "late"], augment="flip")(images, lambda logits: 0 * logits[0])
    assert found.empty.all()
    assert not found.maps.any()
    np.testing.assert_array_equal(found.numpy(), 0)
