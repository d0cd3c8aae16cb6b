"""Batch norms folded into convolutions: what is folded, what isn't, and that the values stay."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from cfcam_gpu.deploy import folding

IMAGES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def norm_of(channels, kind=nn.BatchNorm2d, **how):
    norm = kind(channels, **how)
    generator = torch.Generator().manual_seed(channels)
    if norm.running_mean is not None:
        norm.running_mean.copy_(torch.randn(channels, generator=generator) * 0.3)
        norm.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.bias, -0.5, 0.5, generator=generator)
    return norm


def outputs(folded, images):
    tensors = dict(folded.model.named_buffers(remove_duplicate=False))
    with torch.no_grad(), folding.skipped(folded, tensors):
        return folded.model(images)


def check(model, means, images=IMAGES, kept=()):
    """What is folded is these norms, the values stay, and so does the model."""
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(images)
    folded = folding.fold(model, images, kept)
    assert folded.means == {f"{name}.running_mean" for name in means}
    assert folded.model is not model
    found = outputs(folded, images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.model.modules())
    return folded


@pytest.mark.parametrize(
    "how",
    [{}, {"bias": False}, {"groups": 3}, {"stride": 2, "padding": 1}, {"padding": "same", "padding_mode": "reflect"}],
    ids=str,
)
def test_a_norm_behind_a_convolution_is_folded(how):
    folded = check(nn.Sequential(nn.Conv2d(3, 6, 3, **how), norm_of(6), nn.ReLU()), ["1"])
    # Without the norm: the convolution alone gives its output.
    assert torch.equal(outputs(folded, IMAGES), F.relu(folded.model[0](IMAGES)))


@pytest.mark.parametrize(("rank", "shape"), [(1, (3, 9)), (3, (3, 5, 6, 7))])
def test_signals_and_volumes(rank, shape):
    conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
    check(
        nn.Sequential(conv(3, 6, 3), norm_of(6, norm), conv(6, 4, 1), norm_of(4, norm)),
        ["1", "3"],
        torch.rand(2, *shape),
    )


def test_a_norm_without_weights():
    check(nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6, affine=False)), ["1"])


class NormAct(nn.BatchNorm2d):
    """A norm with an activation of its own."""

    def forward(self, x):
        return F.silu(super().forward(x))


def test_a_norm_with_an_activation_keeps_it():
    check(nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6, NormAct)), ["1"])


class Residual(nn.Module):
    """The convolution's output is read by the norm, and by the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), norm_of(6)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Shared(nn.Module):
    """One convolution before two norms, and one norm behind two convolutions."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 3, padding=1), norm_of(3), norm_of(3)
        self.first, self.second, self.both = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), norm_of(3)

    def forward(self, x):
        x = self.conv(x)
        x = self.one(x) + self.other(x)
        return self.both(self.second(self.both(self.first(x))))


class Twice(nn.Module):
    """Both run twice, one behind the other."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), norm_of(3))

    def forward(self, x):
        return self.block(self.block(x))


class InTurn(nn.Module):
    """One convolution that runs twice, each time before a norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 3, padding=1), norm_of(3), norm_of(3)

    def forward(self, x):
        return self.one(self.conv(x)) + self.other(self.conv(x + 1))


class Centred(nn.Conv2d):
    """A weight that is standardised in each forward: scaling it changes nothing."""

    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std(dim=(1, 2, 3), keepdim=True), self.bias)


@pytest.mark.parametrize(
    "model",
    [
        Residual(),
        Shared(),
        Twice(),
        InTurn(),
        nn.Sequential(Centred(3, 6, 3), norm_of(6)),
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), norm_of(6)),
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Identity(), norm_of(6, nn.BatchNorm2d, track_running_stats=False)),
        nn.Sequential(nn.ConvTranspose2d(3, 6, 3), norm_of(6)),
        nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), norm_of(6)),
        nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 6, 3)), norm_of(6)),
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, track_running_stats=True)),
    ],
    ids=lambda model: "-".join(type(module).__name__ for module in model.modules())[:60],
)
def test_what_would_change_the_values_stays(model):
    channels = model.eval()(IMAGES).shape[1]
    # Behind it a pair that can be folded: with one that can't be, none would be.
    check(nn.Sequential(model, nn.Conv2d(channels, 4, 1), norm_of(4)), ["2"])


def test_a_norm_in_training_mode_stays():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6), nn.Conv2d(6, 6, 3), norm_of(6)).eval()
    model[1].train()
    assert folding.fold(model, IMAGES, []).means == {"3.running_mean"}


def test_tied_weights_are_folded_apart():
    one, other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    other.weight = one.weight
    folded = check(nn.Sequential(one, norm_of(3), other), ["1"])
    assert torch.equal(folded.model[2].weight, one.weight)


@pytest.mark.parametrize(
    ("kept", "means"),
    [
        (["1"], ["1", "4"]),  # what the norm gives is the same
        (["0"], ["4"]),
        (["1.input"], ["4"]),
        (["3"], ["1"]),  # a container's output is that of its convolution
        (["2"], ["1", "4"]),
    ],
)
def test_what_a_target_layer_sees_stays(kept, means):
    inner = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 5, 3))
    check(nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6), nn.Tanh(), inner, norm_of(5)), means, kept=kept)


def test_bfloat16_stays():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6)).to(torch.bfloat16)
    check(model, [], IMAGES.to(torch.bfloat16))


def test_several_outputs():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = nn.Conv2d(3, 6, 3), norm_of(6)

        def forward(self, x):
            x = self.body(x)
            return {"logits": self.norm(x).mean((2, 3)), "body": x}

    # The convolution's output is an output of the model, too, and no operator tells: nothing is folded.
    model = Both().eval()
    assert folding.fold(model, IMAGES, []).means == set()


def test_a_model_that_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6)).eval()
    model.lines = (line for line in ["a generator"])
    with pytest.raises(TypeError, match=r"model: expected one that copy\.deepcopy copies"):
        folding.fold(model, IMAGES, [])


def test_another_thread_may_run_the_model_meanwhile():
    """What is skipped is skipped in this thread alone."""
    import threading

    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm_of(6)).eval()
    folded = folding.fold(model, IMAGES, [])
    expected, found = folded.model(IMAGES), []
    with folding.skipped(folded, dict(folded.model.named_buffers())):
        thread = threading.Thread(target=lambda: found.append(folded.model(IMAGES)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)


def test_what_an_earlier_forward_left_behind_is_no_hindrance():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[0].cache = {"cpu": [model[0].weight * 2]}  # hangs on autograd's graph, which deepcopy refuses
    folded = folding.fold(model, IMAGES, [])
    assert len(folded.means) == 1
    assert folded.model[0].cache["cpu"][0].grad_fn is None
    assert model[0].cache["cpu"][0].grad_fn is not None
