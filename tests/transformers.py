"""A small vision transformer, whose attention is written in each of the ways that models write theirs."""

import torch
from torch import nn
from torch.nn import functional

WAYS = ["fused", "plain", "module", "encoder"]


class Attention(nn.Module):
    """Two heads, fused or plain."""

    def __init__(self, width, fused):
        super().__init__()
        self.qkv, self.proj, self.fused = nn.Linear(width, 3 * width), nn.Linear(width, width), fused

    def forward(self, tokens):
        query, key, value = self.qkv(tokens).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Normalised first, as in a ViT."""

    def __init__(self, width, way):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.way = way
        if way == "module":
            self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        else:
            self.attn = Attention(width, way == "fused")

    def forward(self, tokens):
        normed = self.norm1(tokens)
        mixed = self.attn(normed, normed, normed)[0] if self.way == "module" else self.attn(normed)
        tokens = tokens + mixed
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """Patches of 4 x 4, class and register tokens, blocks, and a head that reads the class token, or their mean."""

    def __init__(self, way="fused", depth=2, extra=1, width=8, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.extra = nn.Parameter(torch.empty(1, extra, width))
        if way == "encoder":
            options = {"activation": "gelu", "batch_first": True, "norm_first": True, "dropout": 0.0}
            blocks = [nn.TransformerEncoderLayer(width, 2, 2 * width, **options) for _ in range(depth)]
        else:
            blocks = [Block(width, way) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def tokens(self, images):
        patches = self.patches(images).flatten(2).mT
        return torch.cat([self.extra.expand(images.shape[0], -1, -1), patches], dim=1)

    def read(self, tokens):
        normed = self.norm(tokens)
        return self.head(torch.tanh(normed[:, 0] if self.extra.shape[1] else normed.mean(dim=1)))

    def forward(self, images):
        return self.read(self.blocks(self.tokens(images)))


#: Names of a parameter in the ways of writing it, as they are registered.
_OTHERWISE = {
    "module": {
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        "attn.proj": "attn.out_proj",
    },
    "encoder": {
        "attn.qkv.weight": "self_attn.in_proj_weight",
        "attn.qkv.bias": "self_attn.in_proj_bias",
        "attn.proj": "self_attn.out_proj",
        "mlp.0": "linear1",
        "mlp.2": "linear2",
    },
}


def transformer(way="fused", **options):
    """The same network, whichever way it is written."""
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5 if value.ndim > 1 else
        1 + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in Transformer("fused", **options).state_dict().items()
    }  # fmt: skip
    renamed = {}
    for name, value in state.items():
        for there, here in _OTHERWISE.get(way, {}).items():
            name = name.replace(there, here)
        renamed[name] = value
    made = Transformer(way, **options)
    made.load_state_dict(renamed)
    return made.eval()


def pictures(count=2):
    """Images of 2 x 3 patches."""
    return torch.randn(count, 3, 8, 12, generator=torch.Generator().manual_seed(5))
