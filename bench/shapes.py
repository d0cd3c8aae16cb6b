"""Shapes over noise: pictures whose evidence has an exact mask, and two small networks trained on them.

A picture has 64 x 64 pixels of smooth noise, the object of its class, and two distractors. A class is a shape in a
colour: a disc, square, triangle or cross, red or blue. One distractor is such a shape in another colour, the other a
ring or a bar in red or blue, so that neither the shape nor the colour tells the class alone.

``load(name)`` trains a network on pictures drawn anew for every step, seeded, and keeps its weights in out/shapes.
``python -m bench.shapes NETWORK ... --out FOLDER`` writes FOLDER/shapes-NETWORK.json, with every method on pictures
that were in no step and are classified rightly: how much of the map is in the object of the class, how much in the
distractors, insertion, deletion and drop; and of pictures with objects of two classes how much of what is in either is
in that of the class which is explained. ``evidence`` has what the network itself looks at: its mean probability of the
class, without the object, and without the distractors.
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

SIDE = 64
SHAPES, COLOURS = ("disc", "square", "triangle", "cross"), ("red", "blue")
CLASSES = len(SHAPES) * len(COLOURS)
#: Of classes the first two, of distractors in a class's shape the others.
PAINTS = torch.tensor([[0.85, 0.2, 0.2], [0.2, 0.35, 0.9], [0.2, 0.7, 0.25], [0.85, 0.8, 0.2]])
WEIGHTS = Path(__file__).resolve().parents[1] / "out" / "shapes"
BATCH = 64


class Pictures(NamedTuple):
    """Pictures in [-1, 1], their classes, and where each object is.

    Parameters
    ----------
    images : (N, 3, 64, 64) float32
    classes : (N, K) int64
        Of each of the K objects that have a class.
    masks : (N, K, 64, 64) bool
        Of these objects.
    distractors : (N, 64, 64) bool
        Of both distractors.
    without : (N, 3, 64, 64) float32
        The same pictures without the first object.
    undistracted : (N, 3, 64, 64) float32
        Without the distractors.
    """

    images: torch.Tensor
    classes: torch.Tensor
    masks: torch.Tensor
    distractors: torch.Tensor
    without: torch.Tensor
    undistracted: torch.Tensor

    def those(self, chosen: torch.Tensor) -> Pictures:
        """Some of them."""
        return Pictures(*(one[chosen] for one in self))


def draw(count: int, seed: int, *, objects: int = 1) -> Pictures:
    """Pictures with one or two objects of different classes, and two distractors, each in a quarter of its own."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    many = objects + 2
    classes = uniform(count, CLASSES).argsort(dim=1)[:, :objects]
    kinds = torch.cat(
        [classes % len(SHAPES), (4 * uniform(count, 1)).long(), 4 + (2 * uniform(count, 1)).long()], dim=1
    )
    paints = (2 * uniform(count, many)).long()
    paints[:, :objects] = classes // len(SHAPES)
    paints[:, objects] += 2
    quarters = uniform(count, 4).argsort(dim=1)[:, :many]
    centres = torch.stack([quarters // 2, quarters % 2], dim=2) * 32 + 15.5 + 6 * uniform(count, many, 2) - 3
    outlines = _outlines(kinds, centres, 9 + 4 * uniform(count, many), 0.6 * uniform(count, many) - 0.3)

    noise = 0.3 * functional.interpolate(uniform(count, 3, 8, 8) - 0.5, (SIDE, SIDE), mode="bicubic") + 0.5
    grain = 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    colours = PAINTS[paints] + 0.2 * uniform(count, many, 3) - 0.1

    def painted(*kept: int) -> torch.Tensor:
        images = noise
        for k in kept:
            images = torch.where(outlines[:, k, None], colours[:, k, :, None, None], images)
        return (images + grain) * 2 - 1

    return Pictures(
        images=painted(*range(many)),
        classes=classes,
        masks=outlines[:, :objects],
        distractors=outlines[:, objects:].any(dim=1),
        without=painted(*range(1, many)),
        undistracted=painted(*range(objects)),
    )


def _outlines(kinds: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(N, K, 64, 64) bool: shapes of radii and turns about centres (N, K, 2)."""
    ticks = torch.arange(SIDE, dtype=torch.float32)
    y = (ticks[:, None] - centres[..., 0, None, None]) / radii[..., None, None]
    x = (ticks - centres[..., 1, None, None]) / radii[..., None, None]
    cosine, sine = turns.cos()[..., None, None], turns.sin()[..., None, None]
    x, y = x * cosine + y * sine, y * cosine - x * sine
    ax, ay, distance = x.abs(), y.abs(), (x * x + y * y).sqrt()
    long, short = torch.maximum(ax, ay), torch.minimum(ax, ay)
    of_each = torch.stack(
        [
            distance < 0.8,
            long < 0.68,
            (y < 0.5) & (y > 1.732 * ax - 1),
            (short < 0.28) & (long < 0.9),
            (distance > 0.5) & (distance < 0.9),
            (ax < 0.28) & (ay < 0.95),
        ]
    )
    return of_each.gather(0, kinds[None, ..., None, None].expand(1, *of_each.shape[1:]))[0]


def cnn(classes: int = CLASSES) -> nn.Sequential:
    """Convolutions down to 8 x 8, with 16 x 16 before it."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(3, 24, 2), (24, 48, 2), (48, 64, 1), (64, 96, 2), (96, 128, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


class Attention(nn.Module):
    """Self-attention with four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        out: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ViT(nn.Module):
    """A vision transformer of 8 x 8 tokens; its head reads the class token, or the mean of the patches.

    Patches are embedded by three convolutions (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS
    2021), with which it learns in minutes.
    """

    def __init__(self, width: int = 64, depth: int = 4, *, class_token: bool = True) -> None:
        super().__init__()
        self.class_token = class_token
        self.patch_embed = nn.Sequential(
            *(nn.Conv2d(3, 24, 4, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Conv2d(24, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
            nn.Conv2d(48, width, 2, 2),
        )
        self.cls_token = nn.Parameter(torch.zeros(1, int(class_token), width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 64 + int(class_token), width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        logits: torch.Tensor = self.head(tokens[:, 0] if self.class_token else tokens.mean(dim=1))
        return logits


#: How each network is made, in how many steps it is trained, and at which learning rate.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "cnn": (cnn, 250, 3e-3),
    "vit": (ViT, 600, 1.5e-3),
    "vit-mean": (lambda: ViT(class_token=False), 600, 1.5e-3),
}


def train(name: str, *, steps: int | None = None, seed: int = 0) -> nn.Module:
    """A network trained on pictures drawn for it, in eval mode; torch's own random numbers stay as they are."""
    build, most, rate = NETWORKS[name]
    most = steps or most
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=most, pct_start=0.1)
        for step in range(most):
            pictures = draw(BATCH, seed=1_000_000 * (seed + 1) + step)
            loss = functional.cross_entropy(model(pictures.images), pictures.classes[:, 0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if step % 100 == 0:
                print(f"{name}: step {step} of {most}, loss {loss.item():.3f}", file=sys.stderr)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Pictures) -> float:
    """The share of pictures whose class is predicted, in percent."""
    return 100 * (model(pictures.images).argmax(dim=1) == pictures.classes[:, 0]).double().mean().item()


def load(name: str, folder: Path = WEIGHTS) -> nn.Module:
    """A trained network in eval mode; it is trained where the folder has no weights of it."""
    path = folder / f"{name}.pt"
    if not path.exists():
        trained = train(name)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(trained.state_dict(), path)
    with torch.random.fork_rng(devices=[]):
        model = NETWORKS[name][0]()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


MEASURED: dict[str, Better] = {
    "energy_pointing_game": "high",
    "pointing_game": "high",
    "best_iou": "high",
    "distractor_energy": "low",
    "two_objects": "high",
    "average_drop": "low",
    "insertion_auc": "high",
    "deletion_auc": "low",
}
#: Pictures explained at a time, and pixels between two forwards of insertion and deletion.
AT_A_TIME, STEP = 50, 512


@torch.no_grad()
def evidence(model: nn.Module, pictures: Pictures) -> dict[str, float]:
    """Mean probability of the class in percent: of pictures, without the object, without the distractors."""
    looked = {"whole": pictures.images, "without": pictures.without, "undistracted": pictures.undistracted}
    return {
        name: 100 * model(images).softmax(dim=1).gather(1, pictures.classes[:, :1]).mean().item()
        for name, images in looked.items()
    }


def measure(name: str, model: nn.Module, *, pictures: int) -> dict[str, Any]:
    """A record of one network, from so many pictures and half as many with two objects."""
    drawn, double = draw(pictures, seed=1), draw(pictures // 2, seed=2, objects=2)
    with torch.no_grad():
        right = model(drawn.images).argmax(dim=1) == drawn.classes[:, 0]
        seen = model(double.images).topk(2).indices.sort(dim=1).values == double.classes.sort(dim=1).values
    single, double = drawn.those(right), double.those(seen.all(dim=1))
    found, refused = instruments.explainers(model, single.images)
    rows = []
    for method, explainer in found.items():
        for metric, values in of_method(model, instruments.explain(explainer), single, double).items():
            rows += instruments.rows(method, map(str, range(len(values))), metric, values)
        print(f"{name}: {method}", file=sys.stderr)
    return {
        "network": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "accuracy": accuracy(model, draw(1000, seed=0)),
        "pictures": len(single.images),
        "pairs": len(double.images),
        "evidence": evidence(model, single),
        "reference": instruments.REFERENCE,
        "methods": {method: [layer.name for layer in explainer.layers or ()] for method, explainer in found.items()},
        "refused": refused,
        "table": instruments.summary(rows, MEASURED, list(found)),
    }


def of_method(
    model: nn.Module, explain: instruments.Explain, single: Pictures, double: Pictures
) -> dict[str, torch.Tensor]:
    """Values (N,) in percent of each metric of `MEASURED`; of pictures with two objects one for each object."""

    def in_parts(images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        parts = zip(images.split(AT_A_TIME), classes.split(AT_A_TIME), strict=True)
        return torch.cat([explain(*part) for part in parts])

    images, classes, masks = single.images, single.classes[:, 0], single.masks[:, 0]
    maps = in_parts(images, single.classes)[:, 0]
    both = in_parts(double.images, double.classes)
    # Of each object's map, its sum in either object.
    inside = (both[:, :, None] * double.masks[:, None]).double().sum(dim=(3, 4))
    own, either = inside.diagonal(dim1=1, dim2=2), inside.sum(dim=2)
    values = {
        "energy_pointing_game": metrics.energy_pointing_game(maps, masks),
        "pointing_game": metrics.pointing_game(maps, masks),
        "best_iou": metrics.best_iou(maps, masks),
        "distractor_energy": metrics.energy_pointing_game(maps, single.distractors),
        "two_objects": torch.where(either > 0, own / either, 0.0).flatten(),
        "average_drop": metrics.confidence_change(model, images, maps, classes).drop / 100,
        "insertion_auc": metrics.insertion(model, images, maps, classes, step=STEP).auc,
        "deletion_auc": metrics.deletion(model, images, maps, classes, step=STEP).auc,
    }
    return {metric: 100 * of_each for metric, of_each in values.items()}


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.shapes", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"{', '.join(NETWORKS)}; all of them by default")
    parser.add_argument("--out", type=Path, default=instruments.RESULTS)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where trained weights are kept")
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help="and N / 2 of two objects")
    given = parser.parse_args(arguments)
    for name in given.networks or NETWORKS:
        record = measure(name, load(name, given.weights), pictures=given.pictures)
        instruments.write(given.out / f"shapes-{name}.json", "shapes", record)
        print(f"{name}: accuracy {record['accuracy']:.1f}%, evidence {record['evidence']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
