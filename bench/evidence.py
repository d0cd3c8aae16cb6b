"""The methods side by side on trained networks of several families, on the photographs for reporting.

``python -m bench.evidence NETWORK [NETWORK ...] --data DIR`` writes evidence-NETWORK.json, the table and how it came
about, and evidence-NETWORK.parquet, every measurement. DIR has photographs as ``bench.split`` takes them; the part for
reporting is measured on unless ``--part choosing``. The numbers of the default are older than the parts and were chosen
on both, with ``lite0``; what was decided since was decided on the other part alone. First each network's accuracy is
checked: only what it classifies rightly is explained. A measurement that fails ends the run, and nothing is written.

- ``lite0``: EfficientNet-Lite0 with its own classes.
- ``mobilenet-v2``, ``vgg16``, ``vit``: with class prototypes for heads (``bench/prototypes.py``). A photograph is
  explained by the head that has not seen it, and mosaics are of photographs of one head.
- ``thin-resnet``: what it predicts of two classes that have nothing to do with the photographs' objects, so there is
  no mask and no accuracy.
- ``linknet3d``: the brain in a volume and moved copies of it; ``crepe``: the pitch of tones in noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from cfcam_gpu import environment
from cfcam_gpu.evaluation import candidates, table
from cfcam_gpu.evaluation import data as albums
from cfcam_gpu.evaluation.candidates import LIBRAGRAD, PLAIN, Candidate
from cfcam_gpu.evaluation.data import Grid, Photograph, Sample
from cfcam_gpu.evaluation.suites import CONSTANTS, SUITES, Case
from cfcam_gpu.image_files.photos import Preparation
from cfcam_gpu.metrics import Curve
from cfcam_gpu.named_models import models
from cfcam_gpu.results import durable
from cfcam_gpu.targets import Segment, Target

from . import prototypes, split, trained_axes, trained_images
from .latency import commit
from .torchvision_shim import import_torchvision

Item = TypeVar("Item")

ROOT = Path(__file__).resolve().parents[1]
MEASURES = {name: measure for suite in SUITES.values() for name, measure in suite.items()}
LOCAL = ["energy", "pointing", "iou"]
FAITHFUL = ["drop", "insertion", "deletion"]
#: Of a photograph, where maps are of images and the model has classes. SSIM is of images alone.
PHOTOGRAPH = [*FAITHFUL, "adcc", "gradient-noise", "classifier", "class-sensitivity"]
#: In this order where a network has them.
METHODS = [
    *("gradcam", "hirescam", "layercam", "layercam-fine", "gradcam*layercam-fine", "refinecam", "winsorcam", "legrad"),
    *("cfcam-paper", "cfcam-one", "cfcam"),
]
REFERENCE = "gradcam"
#: Networks whose last layer is pooled for a linear head: there HiResCAM is Grad-CAM, and is left out.
POOLED = ("lite0", "mobilenet-v2", "vgg16", "thin-resnet")
#: Of each network, so that all take 90 minutes together; photographs are spread over those that could be explained.
LIMITS = {"lite0": 48, "mobilenet-v2": 48, "vgg16": 16, "vit": 24, "thin-resnet": 16}
#: Of tokens, where gradients come in two forms. LibraGrad's are left out where that costs a decomposition
#: (Eigen-Grad-CAM) or is Grad-CAM of another score (Finer-CAM).
OF_TOKENS = [
    *("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigengradcam", "finercam", "legrad"),
    *("cfcam-paper", "cfcam"),
    *(f"{method}{LIBRAGRAD}" for method in ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam")),
    f"cfcam{PLAIN}",
]
#: Insertion and deletion change so many shares of an image, one after the other.
STEPS = 8
SEED = 0


class Subject(NamedTuple):
    """What is explained: one input, its targets, (1, T) classes or a row of callables, and what is measured on it."""

    name: str
    place: int
    sample: Sample
    targets: Target
    measures: Sequence[str]


class Group(NamedTuple):
    """What one model explains."""

    model: nn.Module
    subjects: list[Subject]


class Evidence(NamedTuple):
    """What a network is measured on, and its accuracy in words."""

    groups: list[Group]
    accuracy: str


def _subjects(photographs: Sequence[Photograph], grids: Sequence[Grid], preparation: Preparation) -> Iterator[Subject]:
    for one in (*photographs, *grids):
        sample = one.load(preparation)
        measures = [f"grid{one.n}"] if isinstance(one, Grid) else PHOTOGRAPH
        if sample.mask is not None:
            measures = [*LOCAL, *measures]
        yield Subject(one.name, one.seed, sample, sample.classes[None], measures)


def _spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of them, spread over all."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _of_part(data: Path, part: str) -> list[Photograph]:
    names = {row["file"] for row in split.parts(data)[part]}
    return [one for one in albums.read(data).photographs if one.name in names]


def _counts(limit: int | None, heads: int = 1) -> dict[int, int]:
    """How many mosaics of each side a head gets."""
    return {side: min(count // heads, limit or count) for side, count in split.COUNTS.items()}


def lite0(data: Path, part: str, limit: int | None) -> Evidence:
    """EfficientNet-Lite0."""
    model = models.load("lite0")
    photographs = _of_part(data, part)
    images = torch.stack([one.load(model.preparation).image for one in photographs])
    with torch.no_grad():
        predicted = torch.cat([model.module(some).argmax(dim=1) for some in images.split(prototypes.BATCH)])
    right = [one for one, index in zip(photographs, predicted) if one.class_index == int(index)]
    subjects = _subjects(_spread(right, limit), split.mosaics(right, _counts(limit)), model.preparation)
    accuracy = f"{len(right)} of {len(photographs)}, among 1000 classes"
    return Evidence([Group(model.module, list(subjects))], accuracy)


def headless(name: str) -> Callable[[Path, str, int | None], Evidence]:
    """A network with class prototypes for heads."""

    def load(data: Path, part: str, limit: int | None) -> Evidence:
        features, preparation = trained_images.HEADLESS[name]()
        names = {one.name for one in _of_part(data, part)}
        groups, right, total = [], 0, 0
        folds = list(
            prototypes.folds(features, preparation, albums.read(data).photographs, trained_images.WHITENED.get(name))
        )
        for number, fold in enumerate(folds):
            own = [one for one in fold.unseen if one.name in names]
            found = prototypes.classified_rightly(fold._replace(unseen=own), preparation)
            rightly = [one for one, yes in zip(own, found) if yes]
            right, total = right + len(rightly), total + len(own)
            grids = split.mosaics(rightly, _counts(limit, len(folds)), f"mosaic of head {number}")
            share = None if limit is None else -(-limit // len(folds))
            groups.append(Group(fold.model, list(_subjects(_spread(rightly, share), grids, preparation))))
        classes = folds[0].model.head.out_features
        return Evidence(groups, f"{right} of {total}, among {classes} classes")

    return load


def thin_resnet(data: Path, part: str, limit: int | None) -> Evidence:
    """A network whose two classes the photographs do not have: of what it predicts no mask is known."""
    module, preparation = trained_images.thin_resnet()
    photographs = []
    for one in _spread(_of_part(data, part), limit):
        with torch.no_grad():
            predicted = int(module(one.load(preparation).image[None]).argmax())
        photographs.append(replace(one, mask=None, class_index=predicted))
    return Evidence([Group(module, list(_subjects(photographs, [], preparation)))], "none of its classes is there")


def linknet3d(data: Path, part: str, limit: int | None) -> Evidence:
    """The predicted brain, against the brain."""
    del data, part
    model = trained_axes.linknet3d()
    shown, brains = trained_axes.brains(limit or trained_axes.COPIES)
    subjects, dice = [], []
    for place, (volume, brain) in enumerate(zip(trained_axes.prepared_volumes(shown), brains[:, 0])):
        with torch.no_grad():
            found = model(volume[None])[0].argmax(dim=0) == 1
        dice.append(float(2 * (found & brain).sum() / (found.sum() + brain.sum())))
        sample = Sample(volume, torch.tensor([1]), brain, tuple(brain.shape))
        subjects.append(Subject(f"brain {place}", place, sample, [[Segment(1)]], LOCAL))
    return Evidence([Group(model, subjects)], f"Dice {100 * sum(dice) / len(dice):.1f}")


def crepe(data: Path, part: str, limit: int | None) -> Evidence:
    """The predicted pitch, against where the tone is."""
    del data, part
    model = trained_axes.crepe()
    signals, masks, bins = trained_axes.tones(limit or trained_axes.SIGNALS)
    with torch.no_grad():
        predicted = model(signals).argmax(dim=1)
    right = (predicted - bins).abs() <= 1
    subjects = []
    for place, (signal, mask, own) in enumerate(zip(signals[right], masks[right], predicted[right])):
        sample = Sample(signal, own[None], mask, tuple(mask.shape))
        subjects.append(Subject(f"tone {place}", place, sample, own[None, None], [*LOCAL, *FAITHFUL]))
    return Evidence([Group(model, subjects)], f"{len(subjects)} of {len(signals)} within 20 cents, among 360 pitches")


NETWORKS: dict[str, Callable[[Path, str, int | None], Evidence]] = {
    "lite0": lite0,
    **{name: headless(name) for name in trained_images.HEADLESS},
    "thin-resnet": thin_resnet,
    "linknet3d": linknet3d,
    "crepe": crepe,
}


def chosen(name: str, group: Group) -> list[Candidate]:
    """The candidates that are measured on a network, of those that a group's model has."""
    first = group.subjects[0]
    there = candidates.find(group.model, first.sample.image[None], first.targets)
    if any(form.endswith((LIBRAGRAD, PLAIN)) for form in there):
        return [there[form] for form in OF_TOKENS if form in there]
    methods = [method for method in METHODS if method != "hirescam" or name not in POOLED]
    return [there[method] for method in methods if method in there]


def rows(model: nn.Module, candidate: Candidate, subject: Subject) -> Iterator[table.Row]:
    """One for each metric that can be measured."""
    sample = subject.sample
    (maps,) = candidate.maps(model, sample.image[None], subject.targets, sample.size)
    step = -(-sample.image[0].numel() // STEPS)
    case = Case(model, candidate, sample, maps, SEED, subject.place, step)
    for name in subject.measures:
        found = MEASURES[name]
        if found.needs_render and candidate.render is None:
            continue
        for metric, value in zip(found.metrics, found.run(case)):
            outcome = value if isinstance(value, Curve) else float(value)
            yield table.Row.of(candidate.name, subject.name, metric, outcome)


def record(name: str, evidence: Evidence, part: str, limit: int | None) -> tuple[dict[str, Any], list[table.Row]]:
    """What is kept of a network: the table and how it came about, and every measurement."""
    there: dict[str, Candidate] = {}
    found: list[table.Row] = []
    for number, group in enumerate(evidence.groups, 1):
        work = list(product(chosen(name, group), group.subjects))
        with torch.no_grad():
            for candidate, subject in track(work, f"{name}, model {number}", console=Console(stderr=True)):
                there[candidate.name] = candidate
                found += rows(group.model, candidate, subject)
    wanted = {one for group in evidence.groups for subject in group.subjects for one in subject.measures}
    measured = {
        metric: better for key, one in MEASURES.items() if key in wanted for metric, better in one.metrics.items()
    }
    summaries = table.summarise(found, measured, list(there), REFERENCE, seed=SEED)
    return {
        "suite": "evidence",
        "model": name,
        "trained": True,
        "accuracy": evidence.accuracy,
        "part": part,
        "device": "cpu",
        "versions": environment.describe()["versions"]
        | {package: metadata.version(package) for package in ("pyarrow", "torchmetrics")}
        | {"commit": commit()},
        "seed": SEED,
        "options": {"limit": limit, "steps": STEPS, **CONSTANTS},
        "methods": {key: list(one.layers) for key, one in there.items()},
        "reference": REFERENCE,
        "table": [summary.as_json() for summary in summaries],
        **table.mean_curves(found),
    }, found


def write(out: Path, about: dict[str, Any], found: Sequence[table.Row]) -> None:
    """Write a network's two files."""
    out.mkdir(parents=True, exist_ok=True)
    stem = f"evidence-{about['model']}"
    table.write_rows(out / f"{stem}.parquet", found)
    with durable.replacing(out / f"{stem}.json") as file:
        file.write(json.dumps(about, indent=1, allow_nan=False).encode() + b"\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """0; an error ends the run at the network that has it."""
    parser = argparse.ArgumentParser(prog="python -m bench.evidence", description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="+", choices=list(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--part", choices=split.PARTS, default=split.REPORTING)
    parser.add_argument("--limit", type=int, metavar="N", help="so many photographs, volumes or signals")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "evaluation")
    options = parser.parse_args(arguments)
    import_torchvision()  # torchmetrics imports it, too
    warnings.simplefilter("ignore")  # what the networks' packages deprecate
    for name in options.networks:
        limit = options.limit or LIMITS.get(name)
        evidence = NETWORKS[name](options.data, options.part, limit)
        about, found = record(name, evidence, options.part, limit)
        write(options.out, about, found)
        images = sum(len(group.subjects) for group in evidence.groups)
        print(f"{name}: {evidence.accuracy}; {images} inputs, {len(found)} measurements, in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
