"""Small transformers of the kinds that image models have: a class token or a mean, tokens or channels-last maps."""

import torch
from torch import nn

CLASSES = 5


class Attention(nn.Module):
    """Of one head, over (B, N, C)."""

    def __init__(self, channels):
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens):
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return self.proj((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, tokens):
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4; `registers` tokens beside the class token, which the head reads, or the mean of all patches."""

    def __init__(self, *, registers=0, mean=False, depth=4, channels=24):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, channels, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels))
        self.reg_token = nn.Parameter(torch.randn(1, registers, channels))
        self.mean = mean
        self.blocks = nn.Sequential(*[Block(channels) for _ in range(depth)])
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, CLASSES)
        self.eval()

    def forward(self, images):
        patches = self.patch(images).flatten(2).mT
        extra = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(images), -1, -1)
        tokens = self.norm(self.blocks(torch.cat([extra, patches], dim=1)))
        return self.head(tokens[:, extra.shape[1] :].mean(dim=1) if self.mean else tokens[:, 0])


class ChannelsLast(nn.Module):
    """Two scales of (B, h, w, C): patches of 4 x 4, then merged by two."""

    def __init__(self, channels=16):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, channels, 4, stride=4)
        self.fine, self.merge, self.coarse = MLP(channels), nn.Linear(4 * channels, channels), MLP(channels)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, CLASSES)
        self.eval()

    def forward(self, images):
        maps = self.fine(self.patch(images).movedim(1, -1))
        quarters = [maps[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.head(self.norm(self.coarse(self.merge(torch.cat(quarters, dim=-1)))).mean(dim=(1, 2)))


class MLP(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, maps):
        return maps + self.linear(self.norm(maps)).relu()


def images(batch=2, size=(16, 24)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
