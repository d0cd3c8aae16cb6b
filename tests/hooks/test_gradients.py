"""Gradients where a plain backward fails: in float16, through writes in place, and where a model has none at all."""

import copy
import re
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cfcam_gpu import CAM, CFCAM, targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.laying_out import laid_out
from cfcam_gpu.methods import METHODS

from ..explain.test_no_host import Reads


def take(model, layer, images, target=None, **options):
    return capture(model, layers.find(model, layer), images, targets.read(target, len(images)), **options)


# float16


class Wide(nn.Module):
    """A mean over many positions behind the layer: derivatives of some 1e-6, and 1e-9 where `small`."""

    def __init__(self, small=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.mix, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 1), nn.Linear(8, 4)
        self.factor = 1e-3 if small else 1.0

    def forward(self, images):
        return self.tail(self.layer(images))

    def tail(self, features):
        return self.head(self.mix(features).sigmoid().mean((2, 3))) * self.factor


def halved(model):
    """The model in float16, and in float32 with the same weights."""
    model = model.half().eval()
    return model, copy.deepcopy(model).float()


@pytest.fixture
def wide_images():
    return torch.rand(2, 3, 66, 66, generator=torch.Generator().manual_seed(1)).half()


def tail_gradients(model, activations, score):
    """From ordinary autograd, in float32."""
    leaf = activations.float().requires_grad_()
    return torch.autograd.grad(score(model.tail(leaf)), leaf)[0]


@pytest.mark.parametrize("small", [False, True])
def test_gradients_in_float16_are_not_lost(wide_images, small):
    model, in_float32 = halved(Wide(small))
    captured = take(model, "layer", wide_images, [1, 3])
    assert captured.activations.dtype == torch.float16
    assert captured.gradients.dtype == torch.float32
    expected = tail_gradients(in_float32, captured.activations, lambda logits: logits[0, 1] + logits[1, 3])
    assert expected.abs().max() < torch.finfo(torch.float16).tiny
    torch.testing.assert_close(captured.gradients[:, 0], expected, rtol=0.02, atol=float(expected.abs().max()) / 200)


def test_nor_are_they_under_autocast_to_float16(wide_images):
    model = Wide(small=True).eval()

    def score(logits):  # in float32, as is the activation of this layer
        return logits.float()[1]

    images = wide_images.float()
    with torch.autocast("cpu", dtype=torch.float16):
        found = take(model, "layer.input", images, score).gradients[:, 0]
    expected = torch.autograd.grad(model(images.requires_grad_())[:, 1].sum(), images)[0]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=float(expected.abs().max()) / 50)


def test_many_targets_and_two_layers_in_float16(wide_images):
    model, _ = halved(Wide(small=True))
    fine, coarse = (layers.find(model, name) for name in ("layer", "mix"))
    classes = torch.tensor([[0, 1, 2], [3, 2, 1]])
    several = capture(model, fine, wide_images, targets.read(classes, 2), coarse=coarse)
    for t in range(3):
        alone = capture(model, fine, wide_images, targets.read(classes[:, t], 2), coarse=coarse)
        for found, one in ((several.gradients, alone.gradients), (several.coarse[1], alone.coarse[1])):
            torch.testing.assert_close(found[:, t], one[:, 0], rtol=0.01, atol=float(one.abs().max()) / 200)


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.gradients and one.layers == "one"])
def test_each_methods_map_in_float16_is_that_of_float32(method):
    """Of a head, all of whose derivatives are below float16's smallest normal number."""
    model, in_float32 = halved(Wide(small=True))
    with torch.no_grad():  # all speaks for all classes
        for one in (model, in_float32):
            for parameter in one.parameters():
                parameter.abs_()
    images = torch.rand(2, 3, 26, 26, generator=torch.Generator().manual_seed(1)).half()
    found, expected = (
        CAM(one, "layer", method=method)(given, [1, 3]).maps
        for one, given in ((model, images), (in_float32, images.float()))
    )
    assert found.amax(dim=(1, 2)).tolist() == expected.amax(dim=(1, 2)).tolist()
    assert bool(expected[0].any())
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_where_scaled_gradients_overflow_an_image_has_the_plain_ones_and_the_others_keep_theirs(wide_images):
    model, in_float32 = halved(Wide())
    target = [lambda logits: logits[1] * 4e4, lambda logits: logits[1].float() * 1e-3]
    captured = take(model, "layer", wide_images, target)
    expected = tail_gradients(in_float32, captured.activations, lambda logits: logits[0, 1] * 4e4 + logits[1, 1] * 1e-3)
    assert bool(captured.gradients.isfinite().all())
    for found, one in zip(captured.gradients[:, 0], expected):
        torch.testing.assert_close(found, one, rtol=0.05, atol=float(one.abs().max()) / 50)


def test_while_a_cuda_graph_is_captured_nothing_is_read(wide_images, monkeypatch):
    model, _ = halved(Wide())
    targets_of_both = [lambda logits: logits[1] * 4e4, lambda logits: logits[1]]
    expected = take(model, "layer", wide_images, targets_of_both)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    (layer,) = expected.layers
    with Reads() as reads:
        captured = take(model, layer, wide_images, targets_of_both)
    assert reads.count == 0
    assert torch.equal(captured.gradients, expected.gradients)


def test_the_host_waits_once_for_many_targets_in_float16(wide_images):
    model, _ = halved(Wide())
    (layer,) = take(model, "layer", wide_images).layers
    count = []
    for target in (None, lambda logits: logits[0], [[lambda logits, k=k: logits[k] for k in range(4)]] * 2):
        with Reads() as reads:
            take(model, layer, wide_images, target)
        count.append(reads.count)
    assert count == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_other_dtypes_keep_their_bits_and_one_backward(wide_images, dtype, monkeypatch):
    model, images = Wide().to(dtype).eval(), wide_images.to(dtype)
    leaf = model.layer(images).detach().requires_grad_()
    expected = torch.autograd.grad(model.tail(leaf)[:, 2].sum(), leaf)[0]
    grad, calls = torch.autograd.grad, []
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **options: calls.append(1) or grad(*given, **options))
    found = take(model, "layer", images, 2).gradients[:, 0]
    assert len(calls) == 1
    assert found.dtype == dtype
    assert torch.equal(found, expected)


# Writes in place


class Tokens(nn.Module):
    """Weighs what a batch norm gives as tokens, so that their gradient has its channels last."""

    def __init__(self, places):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.weights = nn.Parameter(torch.randn(places, 6))

    def forward(self, images):
        tokens = self.norm(self.conv(images)).flatten(2).permute(0, 2, 1)
        return self.head((tokens * self.weights).mean(dim=1)).square()


@pytest.mark.parametrize("target", [1, [[0, 1, 2]]])
@pytest.mark.parametrize("method", ["hirescam", "shapleycam"])
def test_batch_norms_on_the_cpu_get_gradients_in_their_order(method, target):
    model, images = Tokens(36).eval(), torch.randn(1, 3, 8, 8)
    slow = copy.deepcopy(model)  # nothing that a batch norm computes: its scale alone
    slow.norm = nn.Conv2d(6, 6, 1, groups=6)
    with torch.no_grad():
        slow.norm.weight.fill_((1 + model.norm.eps) ** -0.5)
        slow.norm.bias.zero_()
    found, expected = (CAM(one, "conv", method=method)(images, target).raw_maps for one in (model, slow))
    torch.testing.assert_close(found, expected)


class Yolo(nn.Module):
    """A head that writes its boxes into a sigmoid's output, as those of YOLOv5 to v7, or one that makes new ones."""

    def __init__(self, in_place=True):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.SiLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.SiLU())
        self.detect, self.in_place, self.forwards = nn.Conv2d(16, 2 * 7, 1), in_place, 0

    def forward(self, images):
        self.forwards += 1
        features = self.detect(self.backbone(images))
        batch, _, height, width = features.shape
        y = features.view(batch, 2, 7, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        if self.in_place:
            y[..., 0:2] = (y[..., 0:2] * 2 - 0.5) * 8
            y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * 16
        else:
            y = torch.cat([(y[..., 0:2] * 2 - 0.5) * 8, (y[..., 2:4] * 2) ** 2 * 16, y[..., 4:]], -1)
        return y.reshape(batch, -1, 7), [features]


def best(rows):
    return (rows[:, 4] * rows[:, 6]).max()


def largest(rows):
    return (rows[:, 2] * rows[:, 3] * rows[:, 4]).max()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("target", [best, [[best, largest]] * 3], ids=["one", "several"])
@pytest.mark.parametrize("curvature", [False, True])
def test_a_head_that_writes_in_place_has_the_gradients_of_one_that_does_not(images, target, curvature):
    found, expected = (
        take(Yolo(in_place).eval(), "backbone", images, target, curvature=curvature) for in_place in (True, False)
    )
    torch.testing.assert_close(found.gradients, expected.gradients)
    assert bool(expected.gradients.any())
    if curvature:
        torch.testing.assert_close(found.curvatures, expected.curvatures)
        assert bool(expected.curvatures.any())


def test_the_first_capture_alone_runs_such_a_model_twice(images):
    for in_place, forwards in ((True, [2, 1, 1]), (False, [1, 1, 1])):
        model, counts = Yolo(in_place).eval(), []
        (layer,) = laid_out(model, images, [layers.find(model, "backbone")])
        for _ in range(3):
            model.forwards = 0
            take(model, layer, images, best)
            counts.append(model.forwards)
        assert counts == forwards


def test_such_models_in_several_threads(images):
    model, expected = Yolo().eval(), take(Yolo(in_place=False).eval(), "backbone", images, best).gradients
    inside, found = threading.Barrier(3), []

    def wait(module, args, output):
        inside.wait(timeout=60)

    model.detect.register_forward_hook(wait)

    def work():
        found.extend(take(model, "backbone", images, best).gradients for _ in range(2))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    # Each runs once more in its first capture, so that all keep in step.
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for one in found:
        torch.testing.assert_close(one, expected)


def test_a_score_that_writes_in_place(images):
    def score(rows):
        confidence = rows[:, 4].exp()
        largest = confidence.max()
        confidence.zero_()
        return largest

    plain = take(Yolo(in_place=False).eval(), "backbone", images, lambda rows: rows[:, 4].exp().max())
    torch.testing.assert_close(take(Yolo().eval(), "backbone", images, score).gradients, plain.gradients)


# No gradients at all


class Small(nn.Module):
    """Two convolutions, what `between` makes of the first one's output, and a head."""

    def __init__(self, between=lambda second, x: second(x)):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.between = between

    def forward(self, images):
        features = self.between(self.second, self.first(images))
        return self.head(self.hidden(features.mean((2, 3))))


def quantised(model, *kinds):
    return torch.ao.quantization.quantize_dynamic(model, set(kinds), dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("target", [None, [[0, 1]] * 3, lambda logits: logits[1]], ids=["class", "classes", "callable"])
@pytest.mark.parametrize("which", [nn.Linear, "hidden"], ids=["all", "not the last"])
def test_a_quantised_model_has_no_gradients(images, target, which):
    model = quantised(Small().eval(), which)
    for layer in ("second", ["first", "second"]):
        with pytest.raises(ValueError, match=r"model: hidden is quantised \(Linear\), .*no gradients") as refused:
            CFCAM(model, layer)(images, target)
        advised = set(re.findall(r"'(\w+)'", str(refused.value)))
        assert advised == {name for name, method in METHODS.items() if not method.gradients}
    assert bool(CAM(model, "second", method="scorecam")(images).maps.any())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_quantised_before_the_layer_cuts_nothing(images):
    class Behind(Small):
        def forward(self, images):
            return super().forward(images).detach()

    model = Behind(lambda second, x: second(x + second.scale(x.mean((2, 3)))[:, :, None, None]))
    model.second.scale = nn.Linear(6, 6)
    model = quantised(model.eval(), "second.scale")
    with pytest.raises(ValueError, match=r"does not depend on second: it is beside the way .*no_grad or detach"):
        take(model, "second", images)


def test_float_modules_of_the_quantisation_package_are_not_blamed(images):
    class Adding(Small):
        def __init__(self):
            super().__init__()
            self.add = torch.ao.nn.quantized.FloatFunctional()

        def forward(self, images):
            logits = super().forward(images)
            return self.add.add(logits, logits).detach()

    with pytest.raises(ValueError, match="target_layer: the target's score does not depend on second: it is beside"):
        take(Adding().eval(), "second", images)


def checkpointed(reentrant):
    return Small(lambda second, x: checkpoint(second, x, use_reentrant=reentrant)).eval()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("target", [None, [[0, 1]] * 3, lambda logits: logits[1]], ids=["class", "classes", "callable"])
@pytest.mark.parametrize("layer", ["first", "second", "second.input"])
def test_a_reentrant_checkpoint_is_told(images, layer, target):
    with pytest.raises(ValueError, match=rf"model: it checkpoints {layer}, .*use_reentrant=True.*use_reentrant=False"):
        take(checkpointed(True), layer, images, target)
    found = take(checkpointed(False), layer, images, target)
    torch.testing.assert_close(found.gradients, take(Small().eval(), layer, images, target).gradients)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_of_the_coarse_layer_is_told(images):
    with pytest.raises(ValueError, match=r"model: it checkpoints second, .*use_reentrant=True"):
        CFCAM(checkpointed(True), ["first", "second"])(images)


def test_a_model_that_cuts_the_graph_is_told_whatever_is_asked_for(images):
    """The callable is not to blame."""
    model = Small(lambda second, x: second(x).detach()).requires_grad_(False).eval()
    for target in (None, lambda logits: logits[1]):
        with pytest.raises(ValueError, match=r"target_layer: .*does not depend on second.*no_grad or detach"):
            take(model, "second", images, target)
