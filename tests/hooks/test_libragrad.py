"""LibraGrad's backward paths: complete, of the same forward, and of this thread alone."""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cfcam_gpu.hooks import find
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.libragrad import LibraGrad
from cfcam_gpu.targets.request import Request
from tests.transformers_small import VisionTransformer, images

SHAPE = (2, 6, 4, 4)
WEIGHT = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def weights(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def taken(function, value, *, libragrad=True):
    """What a function returns, and the gradient of it times WEIGHT."""
    leaf, mode = value.clone().requires_grad_(), LibraGrad()
    with mode.forward():
        if libragrad:
            mode.begin(leaf)
        found = function(leaf.clone())
    if libragrad:
        mode.check([found], nn.Identity(), "")
    score = (found * WEIGHT.flatten()[: found.numel()].reshape(found.shape)).sum()
    return found.detach(), score.item(), torch.autograd.grad(score, leaf)[0]


def attention(x):
    q, k, v = (x.flatten(2).mT @ weights(6, 18)).chunk(3, dim=-1)
    return ((q @ k.mT / 3).softmax(dim=-1) @ v).mT


def by_einsum(x):
    q, k, v = (x.flatten(2).mT @ weights(6, 18)).chunk(3, dim=-1)
    share = F.dropout(torch.einsum("bic,bjc->bij", q, k).softmax(dim=-1), 0.1, training=False)
    return torch.einsum("bij,bjc->bic", [share, v])


def linear_attention(x):
    q, k, v = (x.flatten(2).mT @ weights(6, 18)).chunk(3, dim=-1)
    q, k = q.relu(), k.relu()
    return (q @ (k.mT @ v)) / (q @ k.sum(dim=1)[..., None] + 1)


def multihead(x):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, batch_first=True).double()
    tokens = x.flatten(2).mT
    return module(tokens, tokens, tokens, need_weights=False)[0]


def fused_with_mask(x):
    heads = x.reshape(2, 2, 3, 16).mT
    return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=heads @ heads.mT)


def layer_norm_by_hand(x):
    mean = x.mean(dim=1, keepdim=True)
    return (x - mean) / torch.sqrt((x - mean).pow(2).mean(dim=1, keepdim=True) + 1e-6)


def global_response(x):
    by_channel = x.norm(p=2, dim=(2, 3), keepdim=True)
    return torch.addcmul(x, weights(6, 1, 1), x * (by_channel / (by_channel.mean(dim=1, keepdim=True) + 1e-6)))


def in_place_gate(x):
    return x.mul_(x.mean(dim=(2, 3), keepdim=True).sigmoid_())


def in_place_features(x):
    return (2 * x).mul_(x.flip(1))


def dynamic_kernel(x):
    return F.conv2d(x[:1], x[1:, :, :3, :3])


def generalised_mean(x):
    return x.abs().pow(3).mean(dim=(2, 3)).pow(1 / 3)


COMPLETED = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(input=x, approximate="tanh"),
    "gelu by hand": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x, inplace=True),
    "mish": F.mish,
    "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "hardswish by hand": lambda x: x * F.relu6(x + 3.0) / 6.0,
    "glu": lambda x: F.glu(x, dim=1),
    "swiglu": lambda x: torch.mul(input=F.silu(x[:, :3]), other=x[:, 3:]),
    "squeeze and excite": in_place_gate,
    "in place": in_place_features,
    "squared relu": lambda x: x.relu().square(),
    "power": lambda x: x.relu() ** 3,
    "length": lambda x: (x * x).sum(dim=1).sqrt(),
    "variance": lambda x: x.var(dim=1),
    "generalised mean": generalised_mean,
    "layer norm": lambda x: F.layer_norm(x, [4, 4], weights(4, 4)),
    "layer norm by hand": layer_norm_by_hand,
    "rms norm": lambda x: F.rms_norm(x, [4], weights(4)),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6),
    "group norm": lambda x: F.group_norm(x, 3, weights(6)),
    "instance norm": F.instance_norm,
    "batch norm in training": lambda x: F.batch_norm(x, None, None, weights(6), training=True),
    "unit length": lambda x: F.normalize(x, dim=1),
    "cosine": lambda x: F.cosine_similarity(x, weights(*SHAPE), dim=1),
    "global response": global_response,
    "attention": attention,
    "attention by einsum": by_einsum,
    "linear attention": linear_attention,
    "multi-head attention": multihead,
    "fused attention": fused_with_mask,
    "dynamic kernel": dynamic_kernel,
    "bilinear": lambda x: F.bilinear(x, x.flip(1), weights(3, 4, 4)),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 3:], dim=1),
    "outer product": lambda x: torch.addr(weights(4, 4), x[0, 0, 0], x[0, 0, 1]) - weights(4, 4),
    "power of a weight": lambda x: x.relu() ** weights(6, 1, 1).abs(),
    "float power": lambda x: torch.float_power(x.abs(), 3),
    "power pooling": lambda x: F.lp_pool2d(x.abs(), 3.0, 2),
    "mixture": lambda x: torch.lerp(x, x.flip(1), x.sigmoid()),
    "sampled where it says": lambda x: F.grid_sample(x[:, :4], x[:, 4:].permute(0, 2, 3, 1).tanh(), align_corners=True),
}


@pytest.mark.parametrize("name", COMPLETED)
def test_a_value_is_the_sum_of_input_times_gradient_and_is_the_same_as_without(name):
    value = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value[0, 0, 0, 0] = 0.0
    found, score, gradient = taken(COMPLETED[name], value)
    plain, _, of_plain = taken(COMPLETED[name], value, libragrad=False)
    assert torch.equal(found, plain)
    assert (gradient * value).sum().item() == pytest.approx(score, rel=1e-9)
    if name not in ("generalised mean", "global response", "length", "power pooling"):  # complete as they are
        assert (of_plain * value).sum().item() != pytest.approx(score, rel=1e-3)


def test_a_gate_is_continuous_at_zero():
    """x g(x) has no quotient there."""
    for function in (F.gelu, F.silu, F.hardswish, F.mish):
        gradients = [taken(function, torch.full(SHAPE, at, dtype=torch.float64))[2] for at in (0.0, 1e-9)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    "complete", [nn.ReLU(), nn.Conv2d(6, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(6).eval(), nn.Softmax(dim=1), nn.ELU()]
)
def test_other_operators_keep_their_gradients(complete):
    value, complete = torch.randn(SHAPE, dtype=torch.float64), complete.double()
    for one, other in zip(taken(complete, value), taken(complete, value, libragrad=False)):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_a_weight_that_is_trained_is_a_weight():
    """As a frozen one: layer scale is no product of features."""
    scale = nn.Parameter(weights(6, 1, 1))
    value = torch.randn(SHAPE, dtype=torch.float64)
    trained, frozen = (taken(lambda x, by=by: x * by, value)[2] for by in (scale, scale.detach()))
    assert torch.equal(trained, frozen)


def linearised(model, at):
    """The way from a small transformer's third block to its logits, by the paper's equations linear about `at`."""

    def norm(module, tokens, fixed):
        scale = (fixed.var(dim=-1, unbiased=False, keepdim=True) + module.eps).sqrt()
        return (tokens - tokens.mean(dim=-1, keepdim=True)) / scale * module.weight + module.bias

    def attend(module, tokens, fixed):
        q, k, _ = module.qkv(fixed).chunk(3, dim=-1)
        value = module.qkv(tokens).chunk(3, dim=-1)[2]
        return module.proj((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ value)

    def feed(module, tokens, fixed):
        first, _, second = module
        gate = 0.5 * (1 + torch.erf(first(fixed) / 2**0.5))
        return second(first(tokens) * gate)

    def run(tokens):
        fixed = at
        for block in model.blocks[3:]:
            normed, of_fixed = norm(block.norm1, tokens, fixed), norm(block.norm1, fixed, fixed)
            tokens, fixed = (
                tokens + attend(block.attn, normed, of_fixed),
                fixed + attend(block.attn, of_fixed, of_fixed),
            )
            normed, of_fixed = norm(block.norm2, tokens, fixed), norm(block.norm2, fixed, fixed)
            tokens, fixed = tokens + feed(block.mlp, normed, of_fixed), fixed + feed(block.mlp, of_fixed, of_fixed)
        return model.head(norm(model.norm, tokens, fixed)[:, 0])

    return run


def test_gradients_of_a_transformer_are_those_of_the_paper_written_out():
    model, inputs = VisionTransformer().double(), images().double()
    tokens = []
    handle = model.blocks[2].register_forward_hook(lambda module, args, output: tokens.append(output.detach()))
    logits = model(inputs)
    handle.remove()
    leaf = tokens[0].clone().requires_grad_()
    run = linearised(model, tokens[0])
    torch.testing.assert_close(run(leaf), logits)
    (expected,) = torch.autograd.grad(run(leaf)[:, 2].sum(), leaf)
    captured = capture(model, find(model, "blocks.2"), inputs, Request(indices=torch.tensor([2, 2])), libragrad=True)
    maps = expected[:, 1:].mT.unflatten(2, captured.activations.shape[2:])
    torch.testing.assert_close(captured.gradients[:, 0], maps, rtol=1e-9, atol=1e-12)


def of(model, inputs, *, libragrad, count=1, autocast=None):
    request = Request(indices=torch.arange(count).expand(len(inputs), -1).contiguous())
    with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        return capture(model, find(model, "blocks.1"), inputs, request, libragrad=libragrad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_forward_is_the_same_in_every_dtype(dtype, autocast):
    if autocast and dtype == torch.float32:
        return
    model = VisionTransformer() if autocast else VisionTransformer().to(dtype)
    inputs = images() if autocast else images().to(dtype)
    plain, found = (
        of(model, inputs, libragrad=libragrad, count=2, autocast=dtype if autocast else None)
        for libragrad in (False, True)
    )
    assert torch.equal(found.logits, plain.logits)
    assert torch.equal(found.activations, plain.activations)
    exact = of(VisionTransformer(), images(), libragrad=True, count=2).gradients
    error = (found.gradients - exact).abs().max() / exact.abs().max()
    assert error < {torch.float32: 1e-6, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]


def test_many_targets_are_as_one_by_one():
    model, inputs = VisionTransformer(), images()
    together = of(model, inputs, libragrad=True, count=3).gradients
    for index in range(3):
        request = Request(indices=torch.full((2,), index))
        alone = capture(model, find(model, "blocks.1"), inputs, request, libragrad=True).gradients
        torch.testing.assert_close(together[:, index], alone[:, 0])


class Checkpointed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, tokens):
        return checkpoint(self.block, tokens, use_reentrant=False)


def test_a_checkpoint_runs_again_with_the_same_backward_paths():
    model, inputs = VisionTransformer(), images()
    expected = of(model, inputs, libragrad=True).gradients
    model.blocks = nn.Sequential(*model.blocks[:2], *map(Checkpointed, model.blocks[2:]))
    torch.testing.assert_close(of(model, inputs, libragrad=True).gradients, expected, rtol=0.0, atol=0.0)


def test_threads_have_their_own():
    model, inputs, start = VisionTransformer(), images(), Barrier(2)
    expected = {libragrad: of(model, inputs, libragrad=libragrad).gradients for libragrad in (False, True)}

    def work(libragrad):
        start.wait()
        return [of(model, inputs, libragrad=libragrad).gradients for _ in range(4)]

    with ThreadPoolExecutor(2) as pool:
        for libragrad, found in zip(expected, pool.map(work, expected)):
            assert all(torch.equal(each, expected[libragrad]) for each in found)


def test_it_is_off_after_an_error_and_beside_a_mode_of_the_models_own():
    model, inputs = VisionTransformer(), images()
    handle = model.head.register_forward_pre_hook(lambda module, args: (args[0].nonsense,))
    with pytest.raises(AttributeError, match="nonsense"):
        of(model, inputs, libragrad=True)
    handle.remove()
    assert torch._C._len_torch_function_stack() == 0

    expected = of(model, inputs, libragrad=True).gradients
    forward = model.blocks.forward

    def on_a_device(tokens):
        with torch.device("cpu"):  # a mode, which ends between the layer and the output
            return forward(tokens)

    model.blocks.forward = on_a_device
    assert torch.equal(of(model, inputs, libragrad=True).gradients, expected)
    assert torch._C._len_torch_function_stack() == 0


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        ctx.save_for_backward(value)
        return value * value.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (value,) = ctx.saved_tensors
        return gradient * value.sigmoid() * (1 + value * (1 - value.sigmoid()))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            lambda mlp: nn.Sequential(mlp[0], Activation(Swish.apply), mlp[2]),
            "Swish is an autograd.Function of its own",
        ),
        (torch.jit.script, r"blocks\.3\.mlp is TorchScript"),
        (
            lambda mlp: nn.Sequential(Activation(lambda x: x.prod(dim=1, keepdim=True) + mlp(x))),
            "Prod .* without a rule",
        ),
        (
            lambda mlp: nn.Sequential(nn.LSTM(24, 24), Activation(lambda pair: pair[0])),
            r"\w+ runs inside TorchScript or C\+\+",
        ),
    ],
    ids=["autograd.Function", "TorchScript", "no rule", "C++"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_cannot_be_changed_is_refused(part, message):
    model = VisionTransformer()
    model.blocks[3].mlp = part(model.blocks[3].mlp)
    of(model, images(), libragrad=False)
    with pytest.raises(
        ValueError, match=f"^model: {message}.* in which LibraGrad can't change the backward.*libragrad=F"
    ):
        of(model, images(), libragrad=True)


ATEN = torch.ops.aten  # which run past rules, as C++ does
ALL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "function"),
    {
        "Addr": lambda x: ATEN.addr(weights(4, 4), x[0, 0, 0], x[0, 0, 1]),
        "Atan2": lambda x: torch.atan2(x, x.flip(1)),
        "GridSampler2D": lambda x: ATEN.grid_sampler_2d(x[:, :4], x[:, 4:].permute(0, 2, 3, 1), 0, 0, True),
        "Lerp": lambda x: ATEN.lerp.Tensor(x, x.flip(1), x.sigmoid()),
        "LinalgCross": lambda x: ATEN.linalg_cross(x[:, :3], x[:, 3:], dim=1),
        "Pow": lambda x: ATEN.pow.Tensor_Scalar(x, 3),
        "Pow, of a tensor": lambda x: ATEN.pow.Tensor_Tensor(x, weights(6, 1, 1).abs()),
        "Pow, by features": lambda x: x.abs() ** x,
        "PreluKernel": lambda x: F.prelu(x, x[0, :, 0, 0]),
        "Sqrt": lambda x: ATEN.sqrt(x.abs()),
        "Trilinear": lambda x: ATEN.bilinear(x, x.flip(1), weights(3, 4, 4)),
    }.items(),
)
def test_an_operator_that_multiplies_or_raises_features_without_a_rule_is_refused_by_name(kind, function):
    with pytest.raises(ValueError, match=f"^model: {kind.partition(',')[0]} runs inside TorchScript or C"):
        taken(function, ALL)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([torch.stack([x, x.flip(1)]).sum(0), x])[:2],
        lambda x: torch.where(x > 0, x.maximum(x.flip(1)), x - 2 * x.flip(1)),
        lambda x: (
            torch.zeros_like(x).index_copy(1, torch.tensor([1, 0]), x[:, :2]).index_add(1, torch.tensor([1]), x[:, :1])
        ),
        lambda x: x.lerp(x.flip(1), 0.3).scatter_add(1, torch.zeros(x.shape, dtype=torch.int64), x),
        lambda x: torch.hypot(torch.cdist(x, x.flip(1)), torch.cdist(x, x.flip(2))),
        lambda x: x.clone().index_put((torch.tensor([0]),), x[1:]).masked_scatter(x > 0, x).copy_(x.flip(1)),
    ],
)
def test_features_may_meet_in_operators_that_are_linear_or_of_degree_one(function):
    _, score, gradient = taken(function, ALL)
    assert (gradient * ALL).sum().item() == pytest.approx(score, rel=1e-9)
    assert torch.equal(gradient, taken(function, ALL, libragrad=False)[2])


class Activation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, value):
        return self.function(value)
