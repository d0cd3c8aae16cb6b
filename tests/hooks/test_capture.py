"""Capture: right gradients from a head-only backward, in models of all kinds, which come out as they went in."""

import copy
from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu import targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture


class Small(nn.Module):
    """Two convolutions, an in-place ReLU right behind the second, pooling and a linear head."""

    def __init__(self, classes=5, answer=lambda logits: logits):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.second = nn.Conv2d(6, 8, 3)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(32, classes)
        self.answer = answer

    def forward(self, images):
        features = self.act(self.second(torch.relu(self.first(images))))
        return self.answer(self.head(self.pool(features).flatten(1)))


@pytest.fixture
def images():
    return torch.randn(3, 3, 17, 13, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().eval()


def take(model, layer, images, target=None):
    return capture(model, layers.find(model, layer), images, targets.read(target, len(images)))


def by_whole_backward(model, images, target):
    """Gradients at `second` from ordinary autograd over the whole network, on a copy whose ReLU is not in place."""
    model = copy.deepcopy(model)
    model.act = nn.ReLU()
    kept = []
    model.second.register_forward_hook(lambda module, args, output: (output.retain_grad(), kept.append(output))[0])
    logits = model(images)
    logits = logits if isinstance(logits, torch.Tensor) else logits[0]
    logits[torch.arange(len(images)), target].sum().backward()
    return kept[0].detach(), kept[0].grad


def assert_right(captured, model, images, target):
    activations, gradients = by_whole_backward(model, images, target)
    torch.testing.assert_close(captured.activations, activations)
    torch.testing.assert_close(captured.gradients[:, 0], gradients)


def test_gradients_are_those_of_the_whole_backward(model, images):
    captured = take(model, "second", images, [4, 0, 2])
    assert_right(captured, model, images, [4, 0, 2])
    assert captured.indices.tolist() == [4, 0, 2]
    torch.testing.assert_close(captured.logits, model(images).detach())


def test_nothing_of_the_model_changes(model, images):
    for module in (model, model.head):
        module.register_forward_hook(lambda module, args, output: None)
    model.first.weight.grad = torch.full_like(model.first.weight, 7)
    model.second.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    images.requires_grad_()
    take(model, "second", images)
    cfcam_gpu.CFCAM(model)(images)
    assert hooks == {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert bool((model.first.weight.grad == 7).all())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["first.weight"]
    assert not model.second.weight.requires_grad
    assert images.grad is None
    assert not model.training
    assert torch.is_grad_enabled()


def test_the_layers_before_record_no_graph(model, images):
    recorded = {}
    for name in ("first", "second", "act"):
        module = getattr(model, name)
        module.register_forward_hook(lambda m, args, output, name=name: recorded.update({name: output.requires_grad}))
    take(model, "second", images)
    # User hooks were there first, so `second`'s saw its output before it was cut off.
    assert recorded == {"first": False, "second": False, "act": True}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_grad_mode_around_the_call(model, images, mode):
    with mode():
        captured = take(model, "second", images * 1, [1, 1, 1])
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert_right(captured, model, images, [1, 1, 1])


def test_the_input_of_a_layer_may_be_an_inference_tensor(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.inference_mode():
        given = images * 1
        captured = take(model, "0.input", given)
    assert torch.equal(captured.activations, images)
    assert captured.gradients.abs().sum() > 0


class Residual(nn.Module):
    """Adds to what it gave its second layer, in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images):
        features = self.stem(images)
        features += self.block(features).sigmoid()
        return features.mean((2, 3))


@pytest.mark.parametrize("gradients", [True, False])
def test_what_enters_a_layer_is_kept_where_the_model_writes_to_it_later(images, gradients):
    model = Residual().eval()
    find = partial(layers.find, model)
    request = targets.read([0, 1, 2], len(images))
    entered = model.stem(images).detach()
    found = capture(model, find("block.input"), images, request, gradients=gradients)
    assert torch.equal(found.activations, entered)
    if gradients:
        found = capture(model, find("stem.input"), images, request, coarse=find("block.input"))
        assert torch.equal(found.coarse[0], entered)
        entered.requires_grad_()
        score = model.block(entered).sigmoid().mean((2, 3))[torch.arange(3), torch.arange(3)].sum()
        torch.testing.assert_close(found.coarse[1][:, 0], torch.autograd.grad(score, entered)[0])


def test_what_comes_after_the_layer_may_read_an_image_that_is_an_inference_tensor(images):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, images):
            return (self.layer(images) * images[:, :1]).mean(dim=(2, 3))

    explain = cfcam_gpu.CFCAM(Gated().eval(), "layer")
    expected = explain(images)
    with torch.inference_mode():
        assert torch.equal(explain(images.clone()).maps, expected.maps)


def test_frozen_models(model, images):
    model.requires_grad_(False)
    assert_right(take(model, "second", images, [0, 1, 2]), copy.deepcopy(model).requires_grad_(), images, [0, 1, 2])


def test_channels_last(model, images):
    expected = take(model, "second", images)
    model = model.to(memory_format=torch.channels_last)
    captured = take(model, "second", images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(captured.gradients, expected.gradients)


def test_autocast(model, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        captured = take(model, "second", images, 2)
        result = cfcam_gpu.CFCAM(model, "second")(images, 2)
    assert captured.activations.dtype == torch.bfloat16
    activations, gradients = by_whole_backward(model, images, [2, 2, 2])
    torch.testing.assert_close(captured.activations.float(), activations, atol=0.05, rtol=0.05)
    # Rounding may switch a ReLU or two, so a few gradients are another pixel's.
    close = torch.isclose(captured.gradients[:, 0].float(), gradients, atol=0.002, rtol=0.05)
    assert close.float().mean() > 0.99
    assert result.raw_maps.dtype == result.maps.dtype == torch.float32
    assert bool(torch.isfinite(result.maps).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(model, images, dtype):
    result = cfcam_gpu.CFCAM(model.to(dtype), "second")(images.to(dtype))
    assert result.maps.dtype == torch.float32
    assert bool(torch.isfinite(result.maps).all())
    assert result.logits.dtype == dtype


Named = namedtuple("Named", "aux logits")


@dataclass
class Output:
    loss: object
    logits: torch.Tensor


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits: (logits, "features"),
        lambda logits: [logits],
        lambda logits: {"features": 1, "logits": logits},
        lambda logits: {"out": logits},
        lambda logits: Output(None, logits),
        lambda logits: Named(None, logits),
    ],
    ids=["tuple", "list", "dict", "dict out", "dataclass", "namedtuple"],
)
def test_models_that_return_more_than_logits(images, answer):
    torch.manual_seed(0)
    model = Small(answer=answer).eval()
    captured = take(model, "second", images, [3, 3, 0])
    model.answer = lambda logits: logits
    assert_right(captured, model, images, [3, 3, 0])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: {"boxes": logits}, "got a dict with 'boxes'"),
        (lambda logits: None, "got a NoneType"),
        (lambda logits: (None, logits), "got a tuple"),
        (lambda logits: logits.argmax(1), "expected floating logits; got torch.int64"),
    ],
)
def test_an_output_without_logits_is_refused_by_name(images, answer, message):
    with pytest.raises(TypeError, match=f"model: expected .*{message}|model: {message}"):
        take(Small(answer=answer).eval(), "second", images)


def test_half_a_batch_of_logits_is_refused(images):
    with pytest.raises(ValueError, match=r"model: expected logits for each of the 3 images; got shape \(2, 5\)"):
        take(Small(answer=lambda logits: logits[:2]).eval(), "second", images)


class Splitting(nn.Module):
    """A layer that returns a tuple, list or named tuple."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind(x)


@pytest.mark.parametrize(
    "kind",
    [lambda x: (x, 3), lambda x: ["a", x], lambda x: Named(None, x)],
    ids=["tuple", "list", "namedtuple"],
)
def test_layers_that_return_a_tuple(images, kind):
    class Taking(nn.Module):
        def __init__(self):
            super().__init__()
            self.split = Splitting(kind)

        def forward(self, x):
            answer = self.split(x)
            found = next(item for item in answer if isinstance(item, torch.Tensor))
            assert type(answer) is type(kind(x))
            assert len(answer) == 2
            return found.mean((2, 3)) ** 2

    captured = take(Taking().eval(), "split", images, 1)
    expected = torch.zeros_like(images)
    expected[:, 1] = (2 * images[:, 1].mean((1, 2)) / (17 * 13))[:, None, None]
    torch.testing.assert_close(captured.gradients[:, 0], expected)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda x: {"x": x}, TypeError, "expected split to give a tensor, or a tuple with one; got dict"),
        (lambda x: x.mean((2, 3)), ValueError, r"expected an activation \(B, C, h, w\) from split; got"),
        (lambda x: x[:2], ValueError, r"with B = 3 from split; got shape \(2, 3, 17, 13\)"),
        (lambda x: x.long(), TypeError, "expected a floating activation from split; got torch.int64"),
    ],
)
def test_a_layer_without_a_map_is_refused_by_name(images, given, error, message):
    model = nn.Sequential()
    model.add_module("split", Splitting(given))
    with pytest.raises(error, match=message):
        take(model.eval(), "split", images)
    assert torch.is_grad_enabled()
    assert not model.split._forward_hooks


def test_a_layer_that_runs_twice_is_refused(images):
    shared = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 3, 3), shared, nn.Conv2d(3, 3, 3), shared, nn.Flatten(), nn.LazyLinear(2))
    model(images)
    with pytest.raises(ValueError, match=r"target_layer: 1 runs more than once .*'name\.input'"):
        take(model.eval(), shared, images)


def test_a_layer_that_never_runs_is_refused(model, images):
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="target_layer: spare did not run in this forward"):
        take(model, "spare", images)


def test_a_layer_beside_the_way_to_the_output_is_refused(images):
    class Beside(Small):
        def forward(self, images):
            self.second(torch.relu(self.first(images)))
            return images.mean((2, 3))

    class Cut(Small):
        def forward(self, images):
            return super().forward(images).detach()

    for kind in (Beside, Cut):
        with pytest.raises(ValueError, match="target_layer: the target's score does not depend on second"):
            take(kind().eval(), "second", images)


def test_a_forward_under_no_grad_is_explained_all_the_same(model, images):
    plain = copy.deepcopy(model)
    model.forward = torch.no_grad()(model.forward)
    assert_right(take(model, "second", images, [0, 1, 2]), plain, images, [0, 1, 2])


def test_a_failing_model_leaves_no_trace(model, images):
    model.head.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        take(model, "second", images)
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_gradient_that_positions_share_is_written_out_and_another_is_not_copied(images, monkeypatch):
    """An expanded tensor would be summed in another order than the same values in memory."""
    copies = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda *given, **options: copies.append(1) or stack(*given, **options))
    for reduce, copied in ((lambda x: x.sum((2, 3)), [1]), (lambda x: x.square().sum((2, 3)), [])):
        copies.clear()
        head = Splitting(reduce)
        captured = take(nn.Sequential(nn.Conv2d(3, 6, 3), head).eval(), "0", images, 1)
        assert captured.gradients[:, 0].stride() == captured.activations.stride()
        assert copies == copied
