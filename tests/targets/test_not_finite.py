"""Logits that are not finite: an image's fault that is told, but of classes that are masked out."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM, targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.methods import METHODS

INF, NAN = torch.inf, torch.nan
OF_ONE_LAYER = [name for name, method in METHODS.items() if method.layers == "one"]


class Spoilt(nn.Module):
    """Classifies, and adds `value` to logits `k` of images that are marked, or of all; its activations are finite."""

    def __init__(self, k, value, of_all=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 4)
        self.head.weight.data.abs_()
        self.spoil, self.of_all = torch.zeros(4), of_all
        self.spoil[k] = value

    def forward(self, images):
        marked = (images[:, :1, 0, 0] > 5) | self.of_all
        return self.head(self.act(self.conv(images)).mean((2, 3))) + self.spoil.where(marked, 0.0)


def batch(marked):
    images = torch.rand(3, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    images[marked, 0, 0, 0] = 6
    return images


def sound(model, images, target, **options):
    found = capture(model, layers.find(model, "act"), images, targets.read(target, len(images)), **options).sound
    return {name: flags.tolist() for name, flags in found.items()}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("gradients", [True, False])
def test_flags_of_each_image(value, gradients):
    model, images = Spoilt(2, value).eval(), batch(1)
    bad = [True, value == -INF, True]
    assert sound(model, images, 0, gradients=gradients) == {"logits": bad, "score": [True] * 3}
    assert sound(model, images, None, gradients=gradients)["logits"] == bad
    own = sound(model, images, [[0, 1], [1, 2], [0, 3]], gradients=gradients)
    assert own == {"logits": bad, "score": [True, False, True]}
    called = sound(model, images, lambda logits: logits[2], gradients=gradients)
    assert called == {"logits": bad, **({"score": [True, False, True]} if gradients else {})}


def test_flags_of_what_is_no_row_of_logits():
    class Pixels(Spoilt):
        def forward(self, images):
            maps = self.act(self.conv(images)).clone()
            maps[2, 1, 3, 4] = NAN
            return maps

    assert sound(Pixels(0, 0).eval(), batch([]), targets.Segment(0))["logits"] == [True, True, False]
    model = Spoilt(0, 0).eval()
    model.register_forward_hook(lambda module, args, logits: {"embedding": logits / (logits * 0)})
    assert sound(model, batch([]), lambda output: output["embedding"].sum()) == {"score": [False] * 3}


@pytest.mark.parametrize("method", [name for name in OF_ONE_LAYER if name != "randomcam"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_an_image_whose_logits_are_not_finite_is_refused(method, value):
    """Also where another class is explained: that one would be the predicted one."""
    explain, images = CAM(Spoilt(3, value).eval(), "act", method=method), batch(2)
    for target in (None, [0, 1, 1], [[0, 1]] * 3):
        with pytest.raises(ValueError, match="logits: expected finite numbers within float32; image 2 has NaN or inf"):
            explain(images, target)
    if not METHODS[method].classes_only:
        with pytest.raises(ValueError, match="logits: expected finite numbers within float32; image 2 has NaN or inf"):
            explain(images, lambda logits: logits[0])


@pytest.mark.parametrize("method", [name for name in OF_ONE_LAYER if name not in ("randomcam", "eigencam")])
def test_classes_that_are_masked_out_are_not_in_the_way_but_none_can_be_explained(method):
    images = batch([])
    masked, plain = (CAM(Spoilt([1, 3], value, of_all=True).eval(), "act", method=method) for value in (-INF, -60.0))
    for target in (None, [0, 2, 2]):
        found, expected = masked(images, target), plain(images, target)
        torch.testing.assert_close(found.raw_maps, expected.raw_maps, rtol=1e-3, atol=1e-6)
        assert found.raw_maps.isfinite().all()
    for target in ([0, 2, 3], [[0, 2], [0, 2], [3, 0]]):
        with pytest.raises(ValueError, match="score: expected finite numbers within float32; image 2 has NaN or inf"):
            masked(images, target)


def test_the_two_levels_contrast_of_masked_classes():
    images = batch([])
    masked, plain = (CFCAM(Spoilt([1, 3], value, of_all=True).eval(), ["conv", "act"]) for value in (-INF, -60.0))
    torch.testing.assert_close(masked(images, 0).raw_maps, plain(images, 0).raw_maps)
    alone = CFCAM(Spoilt([1, 2, 3], -INF, of_all=True).eval(), ["conv", "act"])
    with pytest.raises(ValueError, match="score: expected finite numbers"):
        alone(images, 0)


class Precise(Spoilt):
    """Spoils an image that is marked to the last bit: none of its noisy copies is."""

    def forward(self, images):
        plain = super().forward(images.clamp(max=1))
        return plain + self.spoil.where(images[:, :1, 0, 0] == 6, 0.0)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("target", [None, [0, 1, 1], lambda logits: logits[0]])
def test_an_image_whose_own_logits_are_not_finite_is_refused_however_its_copies_look(value, target):
    model = Precise(range(4) if value == -INF else 3, value).eval()
    for explainer in (CFCAM(model, "act", smooth=2), CAM(model, "act", method="gradcam", smooth=2, augment="flip")):
        assert explainer(batch([]), target).raw_maps.isfinite().all()
        if value == -INF and callable(target):
            continue  # which may be of another output: the copies' are looked at
        with pytest.raises(ValueError, match=r"(logits|score): expected finite numbers within.* image 1 has NaN"):
            explainer(batch(1), target)
