"""What weighs in a product keeps weighing behind other operators, and what may or may not is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cfcam_gpu import targets
from cfcam_gpu.hooks import find
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.targets.request import Request
from tests.transformers_small import VisionTransformer, images

from .test_libragrad import ALL, Checkpointed, taken, weights


def features(x):
    return torch.einsum("bchw,cd->bdhw", x, weights(6, 6))


def gate(x):
    return x.sigmoid()


def softmax_of(change):
    """Attention whose weights go through a change."""

    def attend(x):
        q, k, v = (x.flatten(2).mT @ weights(6, 18)).chunk(3, dim=-1)
        return (change((q @ k.mT / 3).softmax(dim=-1)) @ v).mT

    return attend


def normalised_in_place(share):
    share = share * 0.7 + 0.3 / 16
    share /= share.sum(dim=-1, keepdim=True)
    return share


def halved_in_place(share):
    share *= 0.5
    return share


def without_the_first(share):
    share[:, 0] = 0
    return share


def largest(share):
    values, indices = share.topk(4, dim=-1)
    return torch.zeros_like(share).scatter(-1, indices, values)


def in_a_buffer(x):
    both = torch.zeros_like(x)
    both[:, :3], both[:, 3:] = gate(x[:, 3:]), gate(x[:, :3])
    return both


NORM = nn.BatchNorm1d(16).double().eval()
WEIGHING = {
    "a difference of softmaxes": softmax_of(lambda share: share - 0.3 * share.mT),
    "a product of softmaxes": softmax_of(lambda share: share * share.mT),
    "a product of softmax and sigmoid": softmax_of(lambda share: share * gate(share.mT)),
    "softmax of softmax": softmax_of(lambda share: share @ share),
    "batch norm": softmax_of(NORM),
    "layer norm": softmax_of(lambda share: F.layer_norm(share, [16])),
    "padded": softmax_of(lambda share: F.pad(share[:, :, :12], (0, 4))),
    "the largest": softmax_of(largest),
    "normalised in place": softmax_of(normalised_in_place),
    "halved in place": softmax_of(halved_in_place),
    "written to": softmax_of(without_the_first),
    "in a buffer": lambda x: features(x) * in_a_buffer(x),
    "a constant written over all": lambda x: features(x) * x.clone().fill_(2.0),
    "a gate in place": lambda x: features(x) * gate(x).mul_(2),
    "squared": lambda x: features(x) * gate(x) ** 2,
    "a sum of gates": lambda x: features(x) * (gate(x) + gate(features(x))),
    "gates first": lambda x: gate(x) * gate(features(x)) * x.flip(2),
    "side by side": lambda x: features(x) * torch.cat([gate(x[:, :2]), gate(x[:, 2:]) + 1], dim=1),
    "upsampled": lambda x: features(x) * F.interpolate(gate(F.avg_pool2d(x, 2)), size=4, mode="bilinear"),
    "in another order": lambda x: features(x) * gate(x).flip(-1).index_select(1, torch.tensor([5, 4, 3, 2, 1, 0])),
    "pooled": lambda x: features(x) * F.max_pool2d(F.avg_pool2d(gate(x), 3, 1, 1), 3, 1, 1).amax(1, keepdim=True),
    "shuffled": lambda x: features(x) * F.pixel_shuffle(gate(F.avg_pool2d(x, 2)).repeat(1, 4, 1, 1), 2),
    "cut off and cumulated": lambda x: features(x) * (gate(x) - 0.4).relu().cumsum(-1),
    "the larger": lambda x: features(x) * torch.maximum(gate(x), gate(x.flip(1))),
    "softplus": lambda x: features(x) * F.softplus(x),
    "elu": lambda x: features(x) * F.elu(x),
    "cosine": lambda x: features(x) * x.cos(),
    "a power of two": lambda x: features(x) * 2**x,
    "a number over features": lambda x: features(x) * torch.div(torch.ones(1), x.abs() + 1),
    "three factors": lambda x: torch.einsum("...,...,...->...", features(x), x.tanh(), gate(x)),
}


@pytest.mark.parametrize("name", WEIGHING)
def test_a_gate_weighs_behind_whatever_else_is_homogeneous(name):
    found, score, gradient = taken(WEIGHING[name], ALL)
    assert torch.equal(found, WEIGHING[name](ALL.clone()))
    assert (gradient * ALL).sum().item() == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: F.pad(x.flip(1).cumsum(2), (1, 1)).unfold(3, 4, 1)[..., 0, :],
        lambda x: torch.fft.irfft(torch.fft.rfft(x), n=4).std(1, keepdim=True),
        lambda x: x + x.tanh(),
    ],
    ids=["linear", "of degree one", "a sum with an activation"],
)
def test_homogeneous_operators_leave_features_to_share_the_gradient(change):
    """Each has half of it: neither is a gate."""
    by_one = taken(lambda x: features(x) * change(ALL), ALL)[2]
    by_other = taken(lambda x: features(ALL) * change(x), ALL)[2]
    torch.testing.assert_close(taken(lambda x: features(x) * change(x), ALL)[2], (by_one + by_other) / 2)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: features(x) * torch.linalg.pinv(x), "LinalgPinv, an operator of which LibraGrad does not know"),
        (lambda x: features(x) * (x + gate(x)), r"features and a gate \(Sigmoid\)"),
        (lambda x: torch.mul(*torch.cat([x, gate(x) * 2], dim=1).chunk(2, dim=1)), r"features and a gate \(Sigmoid\)"),
        (lambda x: features(x) * torch.where(x > 0, x, x.exp() - 1), r"features and a gate \(Exp\)"),
    ],
    ids=["unknown", "a sum", "side by side", "a choice"],
)
def test_a_factor_that_may_or_may_not_weigh_is_refused(function, message):
    with pytest.raises(ValueError, match=f"^model: expected factors .* one is of {message}.*libragrad=False"):
        taken(function, ALL)


def test_what_is_unclear_is_no_matter_where_nothing_is_multiplied_or_a_gate_weighs_it():
    added, own = (taken(lambda x: torch.linalg.pinv(x) + gate(x), ALL, libragrad=one)[2] for one in (True, False))
    assert torch.equal(added, own)
    weighed = taken(lambda x: gate(x) * torch.linalg.pinv(x), ALL)[2]
    assert torch.equal(weighed, taken(lambda x: gate(x).detach() * torch.linalg.pinv(x), ALL)[2])


class Both(nn.Module):
    def forward(self, one, other):
        return one.clone(), other.clone()


@pytest.mark.parametrize("other", [gate, lambda x: nn.Parameter(weights(6, 1, 1))], ids=["a gate", "a parameter"])
def test_backward_hooks_of_a_module_change_nothing(other):
    """They put one node around all that enters or leaves it."""
    hooked = Both()
    hooked.register_full_backward_hook(lambda module, *gradients: None)
    hooked.register_full_backward_pre_hook(lambda module, gradients: None)
    by, expected = (
        taken(lambda x, module=module: torch.mul(*module(features(x), other(x))), ALL)[2] for module in (hooked, Both())
    )
    assert torch.equal(by, expected)


def blocks_1(model):
    return capture(model, find(model, "blocks.1"), images(), Request(indices=torch.tensor([1, 1])), libragrad=True)


def test_a_transformer_with_backward_hooks_is_explained_as_without():
    model = VisionTransformer()
    expected = blocks_1(model).gradients
    model.head.register_full_backward_hook(lambda module, *gradients: None)
    assert torch.equal(blocks_1(model).gradients, expected)


def test_a_reentrant_checkpoint_is_told():
    """There is no other way out: without LibraGrad it is refused, too."""

    class Reentrant(Checkpointed):
        def forward(self, tokens):
            return checkpoint(self.block, tokens, use_reentrant=True)

    model = VisionTransformer()
    model.blocks[3] = Reentrant(model.blocks[3])
    with pytest.raises(ValueError, match=r"^model: it checkpoints blocks\.1, .*use_reentrant=True"):
        blocks_1(model)


class Branches(nn.Module):
    """Two branches side by side, both of GELUs."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(8, 3)

    def forward(self, inputs):
        both = torch.cat([F.gelu(self.left(inputs)), F.gelu(self.right(inputs))], dim=1)
        return self.head(both.mean(dim=(2, 3)))


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_side_by_side_have_the_gradients_of_each_alone(frozen):
    torch.manual_seed(0)
    model, inputs = Branches().requires_grad_(not frozen), images()
    left, right = find(model, "left"), find(model, "right")
    of_both = capture(model, left, inputs, targets.read(1, 2), others=[right], libragrad=True)
    for layer, gradients in ((left, of_both.gradients), (right, of_both.others[0][1])):
        alone = capture(model, layer, inputs, targets.read(1, 2), libragrad=True)
        torch.testing.assert_close(gradients, alone.gradients)
