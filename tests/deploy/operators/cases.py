"""The operators that are covered: for each name of docs/operators.md some modules, with the shape of one image.

Each module's output has one row for each image.
"""

from collections import defaultdict
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

SIGNAL, IMAGE, VOLUME = (4, 11), (4, 9, 8), (4, 5, 6, 7)
SHAPES = {1: SIGNAL, 2: IMAGE, 3: VOLUME}

#: The name of an operator, then of a variant, to the shape of one image and a module or function.
CASES: dict[str, dict] = defaultdict(dict)
#: Variants that stand beside one of their kind in `make test`.
LONG: set[tuple[str, str]] = set()
#: What is written out by our own code, or was wrong in a runtime once.
ESSENTIAL = [
    ("conv", "strided 2d"),
    ("conv", "side by side 2d"),
    ("conv", "depthwise, strided 2d"),
    ("conv", "dilated and strided 2d"),
    ("conv", "even, same 2d"),
    ("conv", "strided 3d"),
    ("conv", "padded"),
    ("conv", "padded_in_part"),
    ("conv_transpose", "strided 2d"),
    ("avg_pool", "ceil 2d"),
    ("avg_pool", "divisor 2d"),
    ("adaptive_avg_pool", "to 3 2d"),
    ("adaptive_max_pool", "to 3 2d"),
    ("max_pool", "strided 2d"),
    ("max_pool", "side_by_side"),
    ("interpolate", "bilinear 2d to {'scale_factor': 1.7}"),
    ("pad", "replicate 2d"),
    ("batch_norm", "affine 2d"),
    ("layer_norm", "affine"),
    ("ReLU6", "bounds"),
    ("Hardswish", "bounds"),
    ("assignment", "slices"),
    ("scaled_dot_product_attention", "nothing_allowed"),
    ("unfold", "of_tensor"),
    ("grid_sample", "bilinear"),
]


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Attends(nn.Module):
    """Attention of tokens to themselves."""

    def __init__(self, first=True, **how):
        super().__init__()
        self.attention, self.first, self.how = nn.MultiheadAttention(8, 2, batch_first=first), first, how

    def forward(self, x):
        x = x if self.first else x.transpose(0, 1)
        found = self.attention(x, x, x, **self.how)[0]
        return found if self.first else found.transpose(0, 1)


class Recurrent(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.network = kind(8, 6, batch_first=True, **how)

    def forward(self, x):
        return self.network(x)[0]


class Embeds(nn.Module):
    """Embeddings of what is no function of the images, weighed by them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 6)

    def forward(self, x):
        return self.embedding((x > 0).long()) * x[..., None]


def case(name, variant, shape, of, long=False):
    CASES[name][variant] = shape, (of if isinstance(of, nn.Module) else Of(of)).eval()
    if long:
        LONG.add((name, variant))


def cases(name, shape=IMAGE, **variants):
    for variant, of in variants.items():
        case(name, variant, shape, of)


def by_rank(name, variants, make):
    """Of signals, images and volumes; of the first and the last the variants are long but the first."""
    for (number, (variant, how)), rank in product(enumerate(variants.items()), SHAPES):
        case(name, f"{variant} {rank}d", SHAPES[rank], make(rank, **how), long=number > 0 and rank != 2)


def of_rank(name, place=F):
    return lambda rank, **how: lambda x: getattr(place, f"{name}{rank}d")(x, **how)


torch.manual_seed(0)

by_rank(
    "conv",
    {
        "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
        "plain": {"kernel_size": 3},
        "of one": {"kernel_size": 1},
        "of one, strided": {"kernel_size": 1, "stride": 2},
        "apart": {"kernel_size": 2, "stride": 3},
        "side by side": {"kernel_size": 2, "stride": 2},
        "even": {"kernel_size": 4, "padding": 1},
        "even, same": {"kernel_size": 4, "padding": "same"},
        "dilated": {"kernel_size": 3, "padding": "same", "dilation": 2},
        "dilated and strided": {"kernel_size": 3, "dilation": 2, "stride": 2, "padding": 1},
        "dilated by the half": {"kernel_size": 4, "dilation": 2, "stride": 4, "padding": 2},
        "strided by three": {"kernel_size": 4, "stride": 3, "padding": 2},
        "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
        "groups, strided": {"kernel_size": 2, "stride": 2, "groups": 2},
        "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
        "depthwise, strided": {"kernel_size": 3, "groups": 4, "stride": 2},
        "wide border": {"kernel_size": 2, "padding": 2},
        "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    },
    lambda rank, **how: getattr(nn, f"Conv{rank}d")(4, 8, **how),
)
cases(
    "conv",
    unequal=nn.Conv2d(4, 8, (3, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
    padded=nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 8, 3, stride=2, padding=1)),
    padded_in_part=nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(4, 8, 3, stride=2)),
    padded_and_rectified=nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 3)),
    padded_in_channels=nn.Sequential(nn.ConstantPad3d((0, 0, 1, 1, 2, 2), 0.0), nn.Conv2d(8, 8, 3)),
)
by_rank(
    "conv_transpose",
    {
        "strided": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        "plain": {"kernel_size": 3},
        "groups": {"kernel_size": 3, "stride": 2, "groups": 2},
        "dilated": {"kernel_size": 3, "dilation": 3, "stride": 2, "padding": 1, "output_padding": 1},
    },
    lambda rank, **how: getattr(nn, f"ConvTranspose{rank}d")(4, 8, **how),
)
by_rank(
    "avg_pool",
    {
        "ceil": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        "plain": {"kernel_size": 2},
        "border left out": {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
        "ceil, left out": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        "same": {"kernel_size": 3, "stride": 1, "padding": 1},
    },
    of_rank("avg_pool"),
)
for rank in (2, 3):
    pool = of_rank("avg_pool")(rank, kernel_size=3, stride=2, padding=1, divisor_override=5)
    case("avg_pool", f"divisor {rank}d", SHAPES[rank], pool, long=rank == 3)
cells = {f"to {count}": {"output_size": count} for count in (3, 1, 2, 4)}
by_rank("adaptive_avg_pool", cells, of_rank("adaptive_avg_pool"))
by_rank("adaptive_max_pool", cells, of_rank("adaptive_max_pool"))
by_rank(
    "max_pool",
    {
        "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
        "plain": {"kernel_size": 2},
        "same": {"kernel_size": 3, "stride": 1, "padding": 1},
        "dilated": {"kernel_size": 3, "dilation": 2, "padding": 1},
        "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    },
    # Rectified first: zeros are equal, and the gradient goes to the first.
    lambda rank, **how: lambda x: of_rank("max_pool")(rank, **how)(x.relu()),
)
cases("max_pool", (4, 8, 8), side_by_side=lambda x: F.max_pool2d(x.relu(), 2))
for rank, kinds in {
    2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    1: ("nearest", "nearest-exact", "linear"),
    3: ("nearest", "nearest-exact", "trilinear"),
}.items():
    for kind in kinds:
        corners = (False, True) if "linear" in kind or kind == "bicubic" else (None,)
        for aligned, how in product(
            corners, ({"size": (13, 5, 10)[:rank]}, {"scale_factor": 2}, {"scale_factor": 1.7})
        ):
            variant = f"{kind} {rank}d to {how}{' aligned' if aligned else ''}"
            resize = lambda x, kind=kind, aligned=aligned, how=how: F.interpolate(  # noqa: E731
                x, mode=kind, align_corners=aligned, **how
            )
            if kind != "area" or how != {"scale_factor": 1.7}:
                case("interpolate", variant, SHAPES[rank], resize, long=rank != 2 or how == {"scale_factor": 2})
cases(
    "interpolate",
    antialias=lambda x: F.interpolate(x, size=(5, 4), mode="bilinear", antialias=True),
    antialias_cubic=lambda x: F.interpolate(x, size=(5, 4), mode="bicubic", antialias=True),
    recomputed=lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
)
case("interpolate", "long signal", (1, 700), lambda x: F.interpolate(x, size=900, mode="linear"))
case("max_pool", "long signal", (1, 1500), lambda x: F.max_pool1d(x, 3, 2, 1))
for kind in ("constant", "reflect", "replicate", "circular"):
    by_rank("pad", {kind: {"mode": kind}}, lambda rank, mode: lambda x: F.pad(x, (1, 2, 2, 1, 1, 1)[: 2 * rank], mode))
cases("pad", cut=lambda x: F.pad(x, (-1, 2, 0, -2)), cut_circular=lambda x: F.pad(x, (-1, 2, 1, 0), "circular"))
cases("pixel_shuffle", (8, 4, 6), up=nn.PixelShuffle(2), down=nn.PixelUnshuffle(2), channels=nn.ChannelShuffle(2))

by_rank("group_norm", {"of two": {}}, lambda rank: nn.GroupNorm(2, 4))
by_rank("instance_norm", {"affine": {}}, lambda rank: getattr(nn, f"InstanceNorm{rank}d")(4, affine=True))
cases("instance_norm", tracked=nn.InstanceNorm2d(4, affine=True, track_running_stats=True))


def _batch_norm(rank):
    norm = getattr(nn, f"BatchNorm{rank}d")(4)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


by_rank("batch_norm", {"affine": {}}, _batch_norm)
cases("batch_norm", plain=nn.BatchNorm2d(4, affine=False))
cases("batch_norm", (6,), of_features=nn.BatchNorm1d(6))
cases("group_norm", plain=nn.GroupNorm(4, 4, affine=False))
cases("layer_norm", (5, 8), affine=nn.LayerNorm(8), plain=nn.LayerNorm(8, elementwise_affine=False))
cases("layer_norm", three_axes=nn.LayerNorm(IMAGE))
cases("rms_norm", (5, 8), affine=nn.RMSNorm(8), plain=nn.RMSNorm(8, eps=1e-6, elementwise_affine=False))
cases("local_response_norm", three=nn.LocalResponseNorm(3))
cases("normalize", channels=lambda x: F.normalize(x, dim=1), sum_of_one=lambda x: F.normalize(x, p=1, dim=-1))
cases("cosine_similarity", of_parts=lambda x: F.cosine_similarity(x[:, :2], x[:, 2:], dim=1))
cases("pairwise_distance", of_parts=lambda x: F.pairwise_distance(x[:, 0], x[:, 1]))
cases("cdist", (5, 8), of_parts=lambda x: torch.cdist(x, x[:, :3] + 1))

for module in (
    *(nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.7), nn.LeakyReLU(0.1), nn.ELU(), nn.SELU(), nn.CELU(0.5), nn.PReLU(4)),
    *(nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Softplus(2.0, 1.0)),
    *(nn.Softsign(), nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid(), nn.Tanhshrink(), nn.Softshrink(0.3), nn.Hardshrink(0.3)),
    *(nn.GLU(1), nn.Threshold(0.1, 0.5), nn.RReLU(), nn.Softmax(1), nn.LogSoftmax(-1), nn.Softmin(1), nn.Softmax2d()),
    *(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()),
):
    case(type(module).__name__, repr(module), IMAGE, module)
for kind in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Hardswish, nn.Mish):
    case(kind.__name__, "in place", IMAGE, nn.Sequential(nn.Identity(), kind(inplace=True)))


def _whole(x):
    """Whole numbers, many of which are a bound, that the gradient passes."""
    return (x - x.detach()) + (x.detach() * 4).round()


for name in ("relu", "relu6", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh"):
    kind = {"relu": "ReLU", "relu6": "ReLU6", "leaky_relu": "LeakyReLU"}.get(name, name.capitalize())
    case(kind, "bounds", IMAGE, lambda x, name=name: getattr(F, name)(_whole(x)))
