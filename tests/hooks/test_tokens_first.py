"""Attention on tokens (N, B, C), torch's own default, is refused where no layer behind it can be read."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.hooks import Layout, find, layers

from ..transformers_small import VisionTransformer
from .test_places import SIZE, images, net, stem

REFUSED = (
    r"^model: expected tokens \(B, tokens, C\), and its tokens come before the batch: those of {} are .*batch_first"
)


class Encoder(nn.Module):
    """torch's encoder on patches of 8 x 8 and a class token, which the head reads, or on patches, or on a CNN's."""

    def __init__(self, *, batch_first=False, begin="convolution", norm_first=True, mean=False):
        super().__init__()
        self.batch_first, self.begin, self.mean = batch_first, begin, mean
        self.patch = nn.Linear(192, 12) if begin == "linear" else stem() if begin == "stem" else nn.Conv2d(3, 12, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        layer = nn.TransformerEncoderLayer(12, 2, 24, norm_first=norm_first, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x):
        linear = self.begin == "linear"
        patches = self.patch(nn.functional.unfold(x, 8, stride=8).mT) if linear else self.patch(x).flatten(2).mT
        tokens = patches if self.mean else torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        tokens = self.norm(self.encoder(tokens if self.batch_first else tokens.transpose(0, 1)))
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        return self.head(tokens.mean(1) if self.mean else tokens[:, 0])


class Bare(nn.Module):
    """Attention after attention, without norms."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 4)
        self.attention = nn.ModuleList(nn.MultiheadAttention(12, 2) for _ in range(2))

    def forward(self, x):
        tokens = self.patch(x).flatten(2).permute(2, 0, 1)
        for attention in self.attention:
            tokens = tokens + attention(tokens, tokens, tokens)[0]
        return self.head(tokens.mean(0))


@pytest.mark.parametrize(
    "make",
    [
        Encoder,
        lambda: Encoder(norm_first=False),
        lambda: Encoder(begin="linear"),
        lambda: Encoder(begin="stem"),
        lambda: Encoder(mean=True),
        Bare,
    ],
    ids=["class token", "norm last", "linear patches", "behind a CNN", "mean", "no norms"],
)
@pytest.mark.parametrize("count", [1, 2])
def test_an_encoder_whose_tokens_come_first_is_refused_where_layers_are_chosen(make, count):
    with pytest.raises(ValueError, match=REFUSED.format(".*") + ".*or name a layer before its attention, such as"):
        CFCAM(net(make))(images(count, 3, *SIZE))


def test_a_layer_that_is_named_and_legrad_refuse_it_too():
    model, given = net(Encoder), images(2, 3, *SIZE)
    with pytest.raises(ValueError, match=REFUSED.format("encoder.layers.1.norm1")):
        CAM(model, "encoder.layers.1.norm1")(given)
    told = replace(find(model, "encoder.layers.1.norm1"), layout=Layout("tokens", (4, 6), extra=1))
    with pytest.raises(ValueError, match=REFUSED.format("encoder.layers.1.norm1")):
        CAM(model, told)(given)
    with pytest.raises(ValueError, match=REFUSED.format("encoder.layers.0")):
        CAM(model, method="legrad")(given)
    assert CAM(model, "patch")(given).layers[0].name == "patch"


def test_the_way_out_that_the_error_tells_is_one():
    other = net(lambda: Encoder(batch_first=True))
    other.load_state_dict(net(Encoder).state_dict())
    assert CAM(other)(images(2, 3, *SIZE)).layers[0].name == "encoder.layers.1.norm1"


class Inside(nn.Module):
    """A block of (B, N, C) whose attention, or all of it, is on (N, B, C)."""

    def __init__(self, *, norms):
        super().__init__()
        self.norms, self.norm, self.attention = norms, nn.LayerNorm(12), nn.MultiheadAttention(12, 2)

    def forward(self, tokens):
        inner = self.norm(tokens.transpose(0, 1)) if self.norms else self.norm(tokens).transpose(0, 1)
        return tokens + self.attention(inner, inner, inner)[0].transpose(0, 1)


class Blocks(nn.Module):
    """Blocks of (B, N, C); the head reads the mean of patches, or the class token."""

    def __init__(self, *, norms, mean):
        super().__init__()
        self.mean, self.patch, self.token = mean, nn.Conv2d(3, 12, 8, 8), nn.Parameter(torch.randn(1, 1, 12))
        self.blocks, self.head = nn.Sequential(*(Inside(norms=norms) for _ in range(3))), nn.Linear(12, 4)

    def forward(self, x):
        tokens = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), self.patch(x).flatten(2).mT], 1))
        return self.head(tokens[:, 1:].mean(1) if self.mean else tokens[:, 0])


class Pooled(nn.Module):
    """A CNN whose head pools by attention among its positions and their mean, as that of CLIP's ResNets does."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.head = stem(), nn.MultiheadAttention(12, 2), nn.Linear(12, 4)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens])
        return self.head(self.attention(tokens, tokens, tokens)[0][0])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Blocks(norms=False, mean=True), "blocks"),
        (lambda: Blocks(norms=False, mean=False), "blocks.2.norm"),
        (lambda: Blocks(norms=True, mean=True), "blocks"),
        (Pooled, "stem"),
    ],
    ids=["attention", "attention, class token", "all of a block", "pooling"],
)
def test_where_a_layer_can_be_read_behind_it_or_attention_pools_nothing_is_refused(make, name):
    assert layers.choose(net(make), images(2, 3, *SIZE)).name == name


def test_of_the_class_token_alone_a_convolution_is_not_called_tokens():
    model = VisionTransformer()
    for block in model.blocks:
        block.norm1 = block.norm2 = nn.Identity()
    reason = layers.choose(model, images(2, 3, 16, 16)).reason
    assert reason.startswith("returns the last activation of patches alone (the head reads the class token alone)")
