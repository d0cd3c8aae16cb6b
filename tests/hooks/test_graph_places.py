"""What is certain of an activation's places by the operations that made it, and that nothing else is taken for it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.evidence import Evidence
from cfcam_gpu.hooks.graph_places import with_places
from cfcam_gpu.hooks.recording import recorded

CHANNELS = 4


class Flipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.flip(3)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(3)


#: Named as torch's own is.
Relu = type("Relu", (Flipped,), {})


def weight(*shape):
    torch.manual_seed(0)
    return nn.Parameter(torch.rand(shape))


def conv(x, kernel=3, channels=None, **options):
    return F.conv2d(x, weight(CHANNELS, channels or x.shape[1], kernel, kernel), **options)


def gate(x):
    return conv(x.mean((2, 3), keepdim=True), 1).sigmoid()


def normed(x):
    return F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1]), weight(x.shape[1]))


#: Of an image (1, 4, 24, 32), or of what a convolution makes of one.
IN_PLACE = {
    "convolution": lambda x: conv(x, padding=1),
    "step": lambda x: conv(x, padding=1, stride=2),
    "patches": lambda x: conv(x, 4, stride=4),
    "dilated": lambda x: conv(x, padding=2, dilation=2),
    "same": lambda x: conv(x, padding="same"),
    "frozen": lambda x: F.conv2d(x, weight(CHANNELS, CHANNELS, 3, 3).detach()),
    "padded as TensorFlow does": lambda x: conv(F.pad(x, (0, 1, 0, 1)), stride=2),
    "reflected": lambda x: conv(F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "batch norm": normed,
    "group norm": lambda x: F.group_norm(x, 2, weight(CHANNELS)),
    "in place": lambda x: F.relu_(conv(x)),
    "activations": lambda x: F.silu(F.gelu(F.hardswish(F.relu6(F.leaky_relu(x))))),
    "dropout": lambda x: F.dropout2d(x, training=True) + x,
    "residual": lambda x: conv(x, padding=1) + x,
    "scaled": lambda x: (x - torch.rand(1, CHANNELS, 1, 1)) / 2,
    "positions": lambda x: x + weight(1, CHANNELS, *x.shape[2:]),
    "gate": lambda x: x * gate(x),
    "gate, expanded": lambda x: x * gate(x).expand_as(x),
    "gate by a linear layer": lambda x: x * F.linear(x.mean((2, 3)), weight(CHANNELS, CHANNELS))[:, :, None, None],
    "gate of positions": lambda x: x * conv(torch.cat([x.mean(1, True), x.amax(1, True)], 1), 3, 2, padding=1),
    "beside": lambda x: torch.cat([x, conv(x, padding=1)], -3),
    "beside the mean": lambda x: torch.cat([x, F.interpolate(gate(x), x.shape[2:])], 1),
    "chunks": lambda x: x.chunk(2, 1)[1] * x.chunk(2, 1)[0],
    "first channels": lambda x: x[:, :2],
    "largest": lambda x: F.max_pool2d(x, 2) + F.max_pool2d(x, 3, 2, 1),
    "rounded up": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "mean": lambda x: F.avg_pool2d(x, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (6, 7)),
    "enlarged": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "transposed convolution": lambda x: F.conv_transpose2d(x, weight(CHANNELS, 2, 2, 2), stride=2),
    "same view": lambda x: x.view(x.shape),
}
NOT_CERTAIN = {
    "flipped": lambda x: x.flip(3),
    "transposed": lambda x: x.mT,
    "transposed and back": lambda x: conv(x.mT).mT,
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "linear": lambda x: F.linear(x, weight(x.shape[-1], x.shape[-1])),
    "rolled": lambda x: x.roll(3, 2),
    "its middle": lambda x: x[:, :, 4:-4, 4:-4],
    "depth to space": lambda x: F.pixel_shuffle(x, 2),
    "another view": lambda x: x.view(x.shape[0], x.shape[1], x.shape[3], x.shape[2]),
    "a summand that is flipped": lambda x: x + x.flip(3),
    "a factor of another shape": lambda x: x.mean(3, True) * x.mean(2, True),
    "a part of one row": lambda x: F.interpolate(F.adaptive_avg_pool2d(x, (1, 6)), x.shape[2:]),
    "one row at all positions": lambda x: F.adaptive_avg_pool2d(x, (1, 6)) * weight(1, 4, 5, 6),
    "the mean everywhere": lambda x: gate(x).expand_as(x),
    "of the mean alone": lambda x: conv(gate(x).expand_as(x)),
    "by its own weights": lambda x: F.conv2d(x, conv(x, 8)[:, :, :3, :3].expand(4, 4, 3, 3)),
    "weights": lambda x: F.conv2d(torch.rand(1, 4, 30, 40), x),
    "weights of itself": lambda x: F.conv2d(x, conv(x)),
    "of what has no graph": lambda x: conv(x.detach().flip(3)),
    "beside what has no graph": lambda x: torch.cat([x, x.detach().flip(3)], 1),
    "beside what is made of what has no graph": lambda x: torch.cat([x, conv(x.detach().flip(3), padding=1)], 1),
    "one after the other": lambda x: torch.cat([x, x]),
    "its right half": lambda x: x.chunk(2, 3)[1],
    "one below the other": lambda x: torch.cat([x, x], 2),
    "attention": lambda x: (x.flatten(2).mT @ x.flatten(2) @ x.flatten(2).mT).mT.view(x.shape),
    "written to a part": lambda x: _write(x.clone()),
    "somebody's own function": Flipped.apply,
    "somebody's own function of torch's name": Relu.apply,
    "much padding": lambda x: conv(F.pad(x, (8, 8, 8, 8))),
    "much padding of its own": lambda x: conv(x, padding=8),
    "patches of what was padded": lambda x: conv(F.pad(x, (2, 0, 2, 0)), 4, stride=4),
    "much padding of the width, named with the channels": lambda x: F.pad(x, (8, 8, 0, 0, 0, 0)),
    "cut off": lambda x: conv(F.pad(x, (-8, -8, 0, 0))),
    "cut off by a transposed convolution": lambda x: F.conv_transpose2d(x, weight(4, 2, 2, 2), stride=2, padding=4),
    "padding that nothing follows": lambda x: F.pad(x, (1, 1)),
    "padding of a weight that isn't kept": lambda x: F.conv2d(F.pad(x, (1, 1)), 2 * weight(4, 4, 3, 3)),
    "channels padded": lambda x: F.pad(x, (0, 0, 0, 0, 0, 1)),
}


def _write(x):
    x[:, :, :2] = x[:, :, -2:].clone()
    return x


def followed(made, begun):
    """Whether `made` of (1, 4, 24, 32) is certain, and what is made."""
    images = torch.rand(1, CHANNELS, 24, 32)
    model = nn.Identity()

    def forward(given, source):
        output = made(conv(given, padding=1) if begun else given)
        return output.grad_fn in with_places([output.grad_fn], source, Evidence(model, images, given))

    return recorded(model, images, forward)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_certain_changes_where_the_image_does(name, begun):
    torch.manual_seed(1)
    made = IN_PLACE[name]
    assert followed(made, begun)

    def of(images):
        torch.manual_seed(2)
        with torch.no_grad():
            return made(conv(images, padding=1) if begun else images)

    images = torch.rand(1, CHANNELS, 24, 32)
    before = of(images)
    for axis in (2, 3):
        for part in (0, 1, 2, 3):
            side = images.shape[axis] // 4
            changed = images.clone()
            changed.narrow(axis, part * side, side).add_(1)
            change = (of(changed) - before).abs().double()
            along = change.sum(dim=tuple({0, 1, 2, 3} - {axis}))
            along = (along - along.median()).clamp_min(0)  # statistics of all change it everywhere
            places = (torch.arange(len(along)) + 0.5) / len(along)
            assert float((along * places).sum() / along.sum()) == pytest.approx((part + 0.5) / 4, abs=0.12)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", NOT_CERTAIN)
def test_nothing_else_is_certain(name, begun):
    assert not followed(NOT_CERTAIN[name], begun)


class Network(nn.Module):
    """Two stages of 8 x 12 and 4 x 6 positions, and a head."""

    def __init__(self, second=nn.Conv2d):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(second(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    def forward(self, x):
        return self.head(self.second(self.first(x)))


@pytest.fixture
def forwarded():
    """How many images go through a model while it is used."""
    count, handles = [], []

    def watch(model):
        handles.append(model.register_forward_pre_hook(lambda module, args: count.append(len(args[0]))))
        return count

    yield watch
    for handle in handles:
        handle.remove()


def test_layers_of_a_plain_network_are_chosen_in_one_forward_of_one_image(forwarded):
    model, images = Network().eval(), torch.rand(4, 3, 32, 48)
    count = forwarded(model)
    explain = CFCAM(model)
    explain(images)
    assert count == [1, 4]
    assert [layer.name for layer in explain.layers] == ["first", "second"]
    assert all(layer.layout.kind == "channels first" and layer.layout.order is None for layer in explain.layers)


def test_a_named_layer_is_laid_out_in_one_forward_of_one_image(forwarded):
    model = Network().eval()
    count = forwarded(model)
    explain = CFCAM(model, "second")
    explain(torch.rand(4, 3, 32, 48))
    explain(torch.rand(4, 3, 32, 48))
    explain(torch.rand(2, 3, 64, 48))
    assert count == [1, 4, 4, 1, 2]


@pytest.mark.parametrize(
    ("dims", "size", "smaller"), [(1, (64,), nn.Conv1d(8, 8, 2, 2)), (3, (16, 24, 32), nn.MaxPool3d(2))]
)
def test_signals_and_volumes_are_certain_too(forwarded, dims, size, smaller):
    convolution, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
    model = nn.Sequential(
        *(convolution(2, 8, 3, padding=1), norm(8), nn.ReLU(), smaller),
        *(convolution(8, 8, 3, 2, 1), nn.SiLU(), getattr(nn, f"AdaptiveAvgPool{dims}d")(1), nn.Flatten()),
    ).eval()
    count = forwarded(model)
    layer = layers.choose(model, torch.rand(3, 2, *size))
    assert (layer.name, layer.layout.grid) == ("5", tuple(side // 4 for side in size))
    assert count == [1]


class Sideways(nn.Conv2d):
    """A convolution by its type, of the image on its side."""

    def forward(self, x):
        return super().forward(x.mT)


def test_a_subclass_that_turns_the_image_is_looked_at(forwarded):
    model = Network(Sideways).eval()
    count = forwarded(model)
    layer = layers.choose(model, torch.rand(2, 3, 32, 48))
    assert (layer.name, layer.layout.grid, layer.layout.order) == ("second", (6, 4), (1, 0))
    assert len(count) > 1


def test_what_a_hook_of_the_users_turns_is_looked_at(forwarded):
    model = Network().eval()
    handle = model.second.register_forward_hook(lambda module, args, output: output.mT)
    count = forwarded(model)
    layer = layers.choose(model, torch.rand(2, 3, 64, 64))
    assert (layer.layout.grid, layer.layout.order) == ((8, 8), (1, 0))
    assert len(count) > 1
    handle.remove()


class Framed(Network):
    """An image in the middle of a larger one."""

    def forward(self, x):
        return super().forward(F.pad(x, (16, 16, 16, 16)))


def test_where_an_image_is_padded_it_is_still_found():
    layer = layers.choose(Framed().eval(), torch.rand(2, 3, 32, 32))
    assert layer.layout.grid == (8, 8)
    assert layer.layout.inside == ((0.25, 0.75), (0.25, 0.75))


class Numpy(Network):
    """What can't be recorded: NumPy takes no tensor of a graph."""

    def forward(self, x):
        return super().forward(torch.from_numpy(x.numpy() * 1))


def test_a_model_that_records_no_graph_is_looked_at_as_before():
    layer = layers.choose(Numpy().eval(), torch.rand(2, 3, 32, 48))
    assert (layer.name, layer.layout.kind, layer.layout.grid) == ("second", "channels first", (4, 6))
