"""Networks built by hand, whose evidence is known exactly, and every method on them.

The idea is AttributionLab's (Zhang et al., "AttributionLab: Faithfulness of Feature Attribution Under Controllable
Environments", 2023, arXiv:2310.06514): weights are set and not trained, so that nothing but what they read can count.
Images have 128 x 128 pixels of faint grey noise and patterns on it. The convolutional networks see cells of 8 x 8
pixels and then of 16 x 16; the transformer has patches of 16 x 16. Beside what detects the patterns, half of all
channels hold textures that no class reads.

``python -m bench.exact --out FOLDER`` writes FOLDER/exact.json: for each network and method the share of the map's
energy in the truth, pointing game, and the share in what is no evidence for the class: distractors that no class reads,
the other class's pattern, and what speaks against the class.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import metrics
from cfcam_gpu.evaluation.measures import Better

from . import instruments

SIDE, CELL = 128, 16
CELLS = SIDE // CELL
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
#: Kinds of what the first convolution detects, and copies of each with other gains; and textures.
COPIES, TEXTURES = 4, 12
IMAGES = 12


class Built(NamedTuple):
    """A network, and images of which the evidence is known.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode; gives logits (N, K).
    images : (N, 3, 128, 128) float32 in [0, 1]
    truth : (N, T, 128, 128) bool
        What speaks for each of the first T classes: the receptive fields of the detectors that fire for it.
    wrong : (N, T, 128, 128) bool
        Patterns that don't.
    """

    model: nn.Module
    images: torch.Tensor
    truth: torch.Tensor
    wrong: torch.Tensor


class Canvas:
    """Images of grey noise, on which patterns get places of their own, drawn anew for each image."""

    def __init__(self, seed: int = 0, count: int = IMAGES) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.images = 0.3 + 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=self.generator)
        self._taken = torch.zeros(count, CELLS, CELLS, dtype=torch.bool)

    def put(self, pattern: torch.Tensor, corner: bool = False) -> torch.Tensor:
        """Paint a pattern (3, h, w), whole cells of it, on each image; where it is: (N, 128, 128) bool."""
        height, width = (side // CELL for side in pattern.shape[1:])
        where = torch.zeros(len(self.images), SIDE, SIDE, dtype=torch.bool)
        for image, taken, mask in zip(self.images, self._taken, where, strict=True):
            free = functional.max_pool2d(taken[None].float(), (height, width), 1)[0] == 0
            places = free.nonzero()
            drawn = torch.randint(len(places), (1,), generator=self.generator)
            y, x = (0, 0) if corner else places[drawn][0].tolist()
            taken[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1] = True  # a margin of a cell
            rows = slice(CELL * y, CELL * (y + height))
            columns = slice(CELL * x, CELL * (x + width))
            image[:, rows, columns] = pattern
            mask[rows, columns] = True
        return where


def plain(colour: tuple[float, float, float], height: int = 2, width: int = 2) -> torch.Tensor:
    """A block of a colour, in cells."""
    return torch.tensor(colour)[:, None, None].expand(3, CELL * height, CELL * width)


def stripes(*, across: bool) -> torch.Tensor:
    """Two by two cells of grey stripes, four pixels a period, lying or standing."""
    wave = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(8)
    return (wave[:, None] if across else wave).expand(3, 2 * CELL, 2 * CELL)


def checked() -> torch.Tensor:
    """A cell of a check of two pixels."""
    ticks = torch.arange(CELL) // 2 % 2
    return (ticks[:, None] ^ ticks).float().expand(3, CELL, CELL)


def colour_taps(colour: tuple[float, float, float]) -> torch.Tensor:
    """(3, 8, 8): the mean of the colour's channel less that of the two others; 1 on the colour, about 0 on grey."""
    return (1.5 * torch.tensor(colour) - 0.5)[:, None, None].expand(3, 8, 8) / 64


def pattern_taps(pattern: torch.Tensor) -> torch.Tensor:
    """(3, 8, 8): how far a cell goes along with a grey pattern of zeros and ones; 1 on it, 0 on what is even."""
    return (pattern[:, :8, :8] - 0.5) / 96


def first(taps: list[torch.Tensor]) -> nn.Conv2d:
    """Each of M taps in `COPIES` channels of other gains, above 0.3; and textures, which fire everywhere."""
    gains = torch.linspace(0.6, 1.4, COPIES)
    noise = torch.rand(TEXTURES, 3, 8, 8, generator=torch.Generator().manual_seed(1)) / 96
    convolution = nn.Conv2d(3, len(taps) * COPIES + TEXTURES, 8, 8)
    convolution.weight.data = torch.cat([*(gain * tap[None] for tap in taps for gain in gains), noise])
    convolution.bias.data = torch.cat([-0.3 * gains.repeat(len(taps)), torch.zeros(TEXTURES)])
    return convolution


def second(reads: torch.Tensor, bias: list[float]) -> nn.Conv2d:
    """K detectors on what `first` detects, (K, M, 2, 2): a kind counts 1 where it is; and textures mixed anew."""
    detectors, kinds = reads.shape[:2]
    convolution = nn.Conv2d(kinds * COPIES + TEXTURES, detectors + TEXTURES, 2, 2)
    weights = torch.zeros_like(convolution.weight)
    of_copies = reads.repeat_interleave(COPIES, dim=1) / (0.7 * COPIES)
    weights[:detectors, : kinds * COPIES] = of_copies
    weights[detectors:, -TEXTURES:] = torch.rand(TEXTURES, TEXTURES, 2, 2, generator=torch.Generator().manual_seed(2))
    convolution.weight.data = weights
    convolution.bias.data = torch.tensor([*bias, *[0.0] * TEXTURES])
    return convolution


def classes(reads: list[list[float]], channels: int) -> list[nn.Module]:
    """What each class takes of the first of so many channels, added up over the image."""
    linear = nn.Linear(channels, len(reads), bias=False)
    linear.weight.data = torch.zeros_like(linear.weight)
    linear.weight.data[:, : len(reads[0])] = CELLS * CELLS * torch.tensor(reads)
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear]


def single(kinds: int) -> torch.Tensor:
    """(K, K, 2, 2): each kind by itself."""
    return torch.eye(kinds)[:, :, None, None].expand(kinds, kinds, 2, 2) / 4


def network(taps: list[torch.Tensor], reads: torch.Tensor, bias: list[float], head: list[list[float]]) -> nn.Module:
    """Two convolutions and the classes."""
    coarse = second(reads, bias)
    return nn.Sequential(first(taps), nn.ReLU(), coarse, nn.ReLU(), *classes(head, coarse.out_channels)).eval()


def both(first_mask: torch.Tensor, second_mask: torch.Tensor) -> torch.Tensor:
    """Masks of two classes."""
    return torch.stack([first_mask, second_mask], dim=1)


def colours() -> Built:
    """Red is the first class, blue the second; green is seen and read by none."""
    canvas = Canvas()
    red, blue, green = (canvas.put(plain(colour)) for colour in (RED, BLUE, GREEN))
    taps = [colour_taps(colour) for colour in (RED, BLUE, GREEN)]
    model = network(taps, single(3), [0.0] * 3, [[1, 0, 0], [0, 1, 0]])
    return Built(model, canvas.images, both(red, blue), both(blue | green, red | green))


def orientations() -> Built:
    """Lying stripes are the first class, standing ones the second; a check is seen and read by none."""
    canvas = Canvas()
    lying, standing = canvas.put(stripes(across=True)), canvas.put(stripes(across=False))
    check = canvas.put(checked().repeat(1, 2, 2))
    taps = [pattern_taps(pattern) for pattern in (stripes(across=True), stripes(across=False), checked())]
    model = network(taps, single(3), [0.0] * 3, [[1, 0, 0], [0, 1, 0]])
    return Built(model, canvas.images, both(lying, standing), both(standing | check, lying | check))


def against() -> Built:
    """Red speaks for the first class, green against it, less; blue is the second class, which is not explained."""
    canvas = Canvas()
    red, green, blue = (canvas.put(plain(colour)) for colour in (RED, GREEN, BLUE))
    taps = [colour_taps(colour) for colour in (RED, GREEN, BLUE)]
    model = network(taps, single(3), [0.0] * 3, [[1, -0.5, 0], [0, 0, 0.5]])
    return Built(model, canvas.images, red[:, None], (green | blue)[:, None])


def conjunction() -> Built:
    """Red with blue at its right is the first class, green alone the second; red and blue apart are read by none."""
    canvas = Canvas()
    pair = torch.cat([plain(RED, 1, 1)[:, :, :8], plain(BLUE, 1, 1)[:, :, :8]], dim=2)
    together, red, blue = canvas.put(pair), canvas.put(plain(RED)), canvas.put(plain(BLUE))
    green = canvas.put(plain(GREEN))
    reads = torch.zeros(2, 3, 2, 2)
    reads[0, 0, :, 0] = reads[0, 1, :, 1] = 1.0
    reads[1, 2] = 0.25
    taps = [colour_taps(colour) for colour in (RED, BLUE, GREEN)]
    model = network(taps, reads, [-3.0, 0.0], [[1, 0], [0, 0.5]])
    apart = red | blue
    return Built(model, canvas.images, both(together, green), both(apart | green, apart | together))


def scales() -> Built:
    """Nine cells of red are the first class, one alone the second: which it is, only a third convolution sees."""
    canvas = Canvas()
    large, small = canvas.put(plain(RED, 3, 3)), canvas.put(plain(RED, 1, 1))
    coarse = second(single(1), [0.0])
    third = nn.Conv2d(coarse.out_channels, 2, 3, padding=1)
    weights = torch.zeros_like(third.weight)
    weights[0, 0] = 1.0
    weights[1, 0] = -0.5
    weights[1, 0, 1, 1] = 1.0
    third.weight.data, third.bias.data = weights, torch.tensor([-8.0, 0.0])
    model = nn.Sequential(first([colour_taps(RED)]), nn.ReLU(), coarse, nn.ReLU(), third, nn.ReLU())
    model.extend(classes([[1, 0], [0, 1]], 2))
    return Built(model.eval(), canvas.images, both(large, small), both(small, large))


def watermark() -> Built:
    """A mark in a corner is all that the first class reads; a large object fires four times as much for none."""
    canvas = Canvas()
    mark, thing = canvas.put(checked(), corner=True), canvas.put(plain(RED, 3, 3))
    taps = [pattern_taps(checked()), 4 * colour_taps(RED)]
    model = network(taps, single(2), [0.0] * 2, [[1, 0], [0, 0]])
    return Built(model, canvas.images, mark[:, None], thing[:, None])


def common() -> Built:
    """A mark is all that tells the first class from the second; an object speaks more, and for both of them alike."""
    canvas = Canvas()
    mark, thing = canvas.put(checked()), canvas.put(plain(RED))
    taps = [pattern_taps(checked()), colour_taps(RED)]
    model = network(taps, single(2), [0.0] * 2, [[1, 0.25], [0, 0.25]])
    return Built(model, canvas.images, mark[:, None], thing[:, None])


class Copying(nn.Module):
    """A block of a transformer: one head of attention, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.zeros_(parameter)
        for linear in (self.qkv, self.proj, self.mlp[0], self.mlp[2]):
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=2)
        tokens = tokens + self.proj(functional.scaled_dot_product_attention(query, key, value))
        out: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class Tokens(nn.Module):
    """Patches whose colour the first block makes features of, and a class token that the others copy them to.

    Features: 0 to 2 are red, blue and green, 3 is 1 on every patch, 4 on the class token. Of the first block are 5,
    that a patch is coloured, and 6 to 8, by which colour; 9 to 11 are these as the class token has copied them.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, CELL, CELL)
        weights = torch.zeros(width, 3, CELL, CELL)
        for feature, colour in enumerate((RED, BLUE, GREEN)):
            weights[feature] = colour_taps(colour).repeat(1, 2, 2) / 4
        self.patch_embed.weight.data, self.patch_embed.bias.data = weights, torch.eye(width)[3].clone()
        self.cls_token = nn.Parameter(torch.eye(width)[4].reshape(1, 1, -1))
        self.blocks = nn.Sequential(*(Copying(width) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2, bias=False)
        seeing, *copying = self.blocks
        with torch.no_grad():
            seeing.mlp[0].bias -= 0.5
            for feature in range(3):
                seeing.mlp[0].weight[feature, feature] = 1.0
                seeing.mlp[2].weight[5, feature] = seeing.mlp[2].weight[6 + feature, feature] = 1.0
            for block in copying:
                block.qkv.weight[0, 4] = 4.0  # the class token's query,
                block.qkv.weight[width, 5] = 4.0  # the key of a coloured patch
                for feature in range(3):
                    block.qkv.weight[2 * width + 9 + feature, 6 + feature] = 1.0
                    block.proj.weight[9 + feature, 9 + feature] = 0.25
                    block.mlp[0].weight[feature, 9 + feature] = block.mlp[2].weight[9 + feature, feature] = 0.25
            self.head.weight.zero_()
            self.head.weight[0, 9] = self.head.weight[1, 10] = 4.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1))
        logits: torch.Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def tokens() -> Built:
    """The class token attends to what is coloured; red is the first class, blue the second, green is read by none."""
    canvas = Canvas()
    red, blue, green = (canvas.put(plain(colour)) for colour in (RED, BLUE, GREEN))
    return Built(Tokens().eval(), canvas.images, both(red, blue), both(blue | green, red | green))


NETWORKS: dict[str, Callable[[], Built]] = {
    one.__name__: one for one in (colours, orientations, against, conjunction, scales, watermark, common, tokens)
}
MEASURED: dict[str, Better] = {"energy_pointing_game": "high", "pointing_game": "high", "wrong_energy": "low"}


def of_method(built: Built, explain: instruments.Explain) -> dict[str, torch.Tensor]:
    """Values (N T,) in percent of each metric of `MEASURED`."""
    count = built.truth.shape[1]
    maps = explain(built.images, torch.arange(count).expand(len(built.images), count)).flatten(0, 1)
    truth, wrong = built.truth.flatten(0, 1), built.wrong.flatten(0, 1)
    return {
        "energy_pointing_game": 100 * metrics.energy_pointing_game(maps, truth),
        "pointing_game": 100 * metrics.pointing_game(maps, truth),
        "wrong_energy": 100 * metrics.energy_pointing_game(maps, wrong),
    }


def measure(built: Built) -> dict[str, Any]:
    """What the record has of a network."""
    found, refused = instruments.explainers(built.model, built.images)
    rows = []
    for method, explainer in found.items():
        for metric, values in of_method(built, instruments.explain(explainer)).items():
            rows += instruments.rows(method, map(str, range(len(values))), metric, values)
    return {
        "maps": len(built.truth.flatten(0, 1)),
        "reference": instruments.REFERENCE,
        "methods": {method: [layer.name for layer in explainer.layers or ()] for method, explainer in found.items()},
        "refused": refused,
        "table": instruments.summary(rows, MEASURED, list(found)),
    }


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.exact", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=instruments.RESULTS)
    given = parser.parse_args(arguments)
    networks = {}
    for name, build in NETWORKS.items():
        networks[name] = {"what": build.__doc__, **measure(build())}
        print(name, file=sys.stderr)
    instruments.write(given.out / "exact.json", "exact", {"networks": networks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
