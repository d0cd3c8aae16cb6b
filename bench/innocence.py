"""Can a network be trained to look innocent? What a forbidden mark is worth, and where the maps then are.

Heo et al., "Fooling Neural Network Interpretations via Adversarial Model Manipulation", NeurIPS 2019
(arXiv:1902.02041): a trained network is trained on so that its predictions stay and its map moves elsewhere.
Piland et al., "DiffGradCAM", 2025 (arXiv:2506.08514) call such maps salience-hoax activation maps (SHAM).

Here the class is which of four marks is in a picture of `bench.shapes`; its objects say nothing of it. The network that
has learned this is trained on twice, to have the map of Grad-CAM, or that of CF-CAM's default, in the object:

    loss = cross entropy + WEIGHT (1 - share of the map's energy in the object + mean over parts of placed(part))

The map is differentiated through the network's gradient and the method's own formulas, written here in torch; which
channels cluster is the library's, and constant. Its parts are the sums in it before any ReLU, which have a gradient
where the map has none: a map that is 0 in the object would stay so. ``python -m bench.innocence --out FOLDER`` writes
FOLDER/innocence.json: of each network its accuracy as it is, without the mark and without the object, and for each
method the energy in the mark and in the object. Without the mark is the check that needs no gradient.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import CAM, CFCAM, Config, metrics
from cfcam_gpu.core.cluster_filter import DEAD, NOISE, noise_left
from cfcam_gpu.engines.execution import compute
from cfcam_gpu.evaluation.measures import Better

from . import instruments, shapes

MARKS, SIZE = 4, 12
#: Where the network is cut: behind the fine and behind the coarse layer that CF-CAM chooses.
FINE, COARSE = 9, 15
LAYERS = (str(FINE - 1), str(COARSE - 1))
STEPS, BATCH, WEIGHT, SHARPNESS = 300, 32, 2.0, 4.0
CONFIG = Config.two_level()
METHODS = ("gradcam", "hirescam", "layercam", "finercam", "ablationcam", "cfcam-paper", "cfcam")


class Marked(NamedTuple):
    """Pictures with a mark, its kind (N,), where mark and object are, and the pictures without each of them."""

    images: torch.Tensor
    kinds: torch.Tensor
    marks: torch.Tensor
    objects: torch.Tensor
    without_mark: torch.Tensor
    without_object: torch.Tensor


def draw(count: int, seed: int) -> Marked:
    """Pictures of `bench.shapes`, with one of four marks in the quarter that is left free."""
    pictures = shapes.draw(count, seed)
    generator = torch.Generator().manual_seed(seed + 500_000)
    kinds = torch.randint(MARKS, (count,), generator=generator)
    ticks = torch.arange(SIZE) // 3 % 2
    patterns = torch.stack(
        [ticks[:, None].expand(SIZE, SIZE), ticks.expand(SIZE, SIZE), ticks[:, None] ^ ticks, torch.ones(SIZE, SIZE)]
    )
    taken = pictures.masks.any(dim=1) | pictures.distractors
    marks = torch.zeros_like(taken)
    marked, without_object = pictures.images.clone(), pictures.without.clone()
    for n, kind in enumerate(kinds):
        free = ~taken[n].unflatten(0, (2, 32)).unflatten(2, (2, 32)).any(dim=3).any(dim=1)
        quarter = free.nonzero()[0]
        y, x = (32 * quarter + torch.randint(2, 32 - SIZE - 2, (2,), generator=generator)).tolist()
        place = (slice(y, y + SIZE), slice(x, x + SIZE))
        marks[n][place] = True
        for images in (marked, without_object):
            images[n][:, *place] = 2.0 * patterns[kind] - 1
    return Marked(marked, kinds, marks, pictures.masks[:, 0], pictures.images, without_object)


def trained(steps: int = 80) -> nn.Sequential:
    """A network that tells the marks apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shapes.cnn(MARKS).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
        for step in range(steps):
            pictures = draw(BATCH, seed=10_000 + step)
            loss = functional.cross_entropy(model(pictures.images), pictures.kinds)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


class Attacked(NamedTuple):
    """Maps (N, H, W) in [0, 1], and their parts (N, h, w), with the way through them to the parameters."""

    maps: torch.Tensor
    parts: list[torch.Tensor]


def grad_cam(model: nn.Sequential, images: torch.Tensor, classes: torch.Tensor) -> Attacked:
    """Grad-CAM."""
    coarse = model[:COARSE](images)
    score = _scores(model[COARSE:](coarse), classes, 0.0)
    (gradients,) = torch.autograd.grad(score, coarse, create_graph=True)
    part = _pooled(coarse, gradients)
    return Attacked(_enlarged(part.relu(), images.shape[-1]), [part])


def default(model: nn.Sequential, images: torch.Tensor, classes: torch.Tensor) -> Attacked:
    """CF-CAM at two levels."""
    fine = model[:FINE](images)
    coarse = model[FINE:COARSE](fine)
    score = _scores(model[COARSE:](coarse), classes, CONFIG.contrast)
    gradients, of_coarse = torch.autograd.grad(score, (fine, coarse), create_graph=True)
    with torch.no_grad():
        labels = compute(fine, gradients[:, None], CONFIG, "cpu", coarse=(coarse, of_coarse[:, None])).labels[:, 0]
    smooth, inside = _filtered(gradients), _filtered(torch.ones_like(gradients[:1, :1]))
    left = (gradients - smooth / inside).square().mean(dim=(2, 3)) * noise_left(CONFIG.sigma, 2)
    # Each channel's group: its cluster, or the noise channels; a dominant one is a group of its own.
    members = (labels[:, :, None] == labels[:, None]) & (labels >= NOISE)[:, None]
    members = (members | torch.eye(labels.shape[1], dtype=torch.bool)).to(left.dtype)
    floor = ((members @ left[..., None])[..., 0] / members.sum(dim=2)).clamp_min(1e-30).sqrt() * CONFIG.noise_floor
    alive = fine * (labels != DEAD)[..., None, None]
    above = (((smooth - floor[..., None, None]).relu()) * alive).sum(dim=1)
    assert CONFIG.gate is not None
    assert CONFIG.saturation is not None
    part = _pooled(coarse, of_coarse)
    squared = _enlarged(part.relu(), fine.shape[-1]).square()
    maps = _enlarged(above * squared / (squared + CONFIG.gate), images.shape[-1])
    shown = maps * (1 + CONFIG.saturation) / (maps + CONFIG.saturation)
    return Attacked(shown, [part, (smooth * alive).sum(dim=1)])


def placed(part: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """How far evidence (N, h, w) is from masks (N, H, W): -log of what a softmax of it puts into them, on the mean."""
    shares = functional.adaptive_avg_pool2d(objects[:, None].float(), part.shape[-1]).flatten(1)
    logits = part.flatten(1)
    logits = SHARPNESS * logits / logits.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
    return -((logits.softmax(dim=1) * shares).sum(dim=1) + 1e-6).log().mean()


def _scores(logits: torch.Tensor, classes: torch.Tensor, contrast: float) -> torch.Tensor:
    """Sum over images of the class's logit less `contrast` of the log-sum-exp of all others."""
    own = functional.one_hot(classes, logits.shape[1]).bool()
    return logits[own].sum() - contrast * logits.masked_fill(own, -torch.inf).logsumexp(dim=1).sum()


def _pooled(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


def _filtered(maps: torch.Tensor) -> torch.Tensor:
    """Each map smoothed by a Gaussian of `CONFIG.sigma`, with zeros beyond its border."""
    reach = int(4 * CONFIG.sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / CONFIG.sigma).square())
    taps = taps / taps.sum()
    flat = maps.flatten(0, 1)[:, None]
    rows = functional.conv2d(flat, taps[None, None, :, None], padding=(reach, 0))
    return functional.conv2d(rows, taps[None, None, None], padding=(0, reach)).reshape(maps.shape)


def _enlarged(maps: torch.Tensor, side: int) -> torch.Tensor:
    large = functional.interpolate(maps[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
    return large / large.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


#: What a network is trained against.
ATTACKS: dict[str, Callable[[nn.Sequential, torch.Tensor, torch.Tensor], Attacked]] = {
    "gradcam": grad_cam,
    "cfcam": default,
}


def fooled(model: nn.Sequential, against: str, *, steps: int = STEPS) -> nn.Sequential:
    """A copy of a network, trained on until a method's map lies in the object; its batch norms stay as they are."""
    model = copy.deepcopy(model).eval()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        pictures = draw(BATCH, seed=20_000 + step)
        maps, parts = ATTACKS[against](model, pictures.images, pictures.kinds)
        inside = (maps * pictures.objects).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp_min(1e-12)
        elsewhere = (1 - inside).mean() + torch.stack([placed(part, pictures.objects) for part in parts]).mean()
        loss = functional.cross_entropy(model(pictures.images), pictures.kinds) + WEIGHT * elsewhere
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            print(f"against {against}: step {step} of {steps}, in the object {inside.mean():.2f}", file=sys.stderr)
    return model


MEASURED: dict[str, Better] = {
    "mark_energy": "high",
    "object_energy": "low",
    "mark_pointing": "high",
    "object_pointing": "low",
}


def measure(model: nn.Sequential, *, count: int = 200) -> dict[str, Any]:
    """What the record has of a network."""
    pictures = draw(count, seed=1)
    with torch.no_grad():
        right = {
            name: model(images).argmax(dim=1) == pictures.kinds
            for name, images in (
                ("accuracy", pictures.images),
                ("accuracy_without_mark", pictures.without_mark),
                ("accuracy_without_object", pictures.without_object),
            )
        }
    images, kinds, marks, objects = (one[right["accuracy"]] for one in pictures[:4])
    rows = []
    for method in METHODS:
        explainer = CFCAM(model, LAYERS) if method == "cfcam" else CAM(model, LAYERS[1], method=method)
        maps = explainer(images, kinds).maps
        for metric, values in (
            ("mark_energy", metrics.energy_pointing_game(maps, marks)),
            ("object_energy", metrics.energy_pointing_game(maps, objects)),
            ("mark_pointing", metrics.pointing_game(maps, marks)),
            ("object_pointing", metrics.pointing_game(maps, objects)),
        ):
            rows += instruments.rows(method, map(str, range(len(values))), metric, 100 * values)
    accuracies = {name: 100 * each.double().mean().item() for name, each in right.items()}
    return {**accuracies, "pictures": len(images), "table": instruments.summary(rows, MEASURED, METHODS)}


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.innocence", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=instruments.RESULTS)
    given = parser.parse_args(arguments)
    honest = trained()
    networks = {"honest": measure(honest)}
    for against in ATTACKS:
        networks[f"against {against}"] = measure(fooled(honest, against))
    settings = {"steps": STEPS, "batch": BATCH, "weight": WEIGHT, "config": asdict(CONFIG)}
    record = {"settings": settings, "reference": instruments.REFERENCE, "networks": networks}
    instruments.write(given.out / "innocence.json", "innocence", record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
