"""How much of the evidence the first components hold, and whether they see different places.

``python -m bench.components --data DIR --out FOLDER`` writes FOLDER/components-MODEL.json: for the groups that
``Explanation.components`` makes, and for the other ways to make them that were tried, on every photograph of DIR (a
folder as ``cfcam-gpu bench`` takes it) and its class, with the default explanation:

- ``held``: the share of the evidence in the first K groups, K = 1 to 8;
- ``overlap``: of the first four groups, the mean over pairs of sum(min(p, q)), p and q being raw maps that sum to 1:
  1 is the same map, 0 no common place; ``random`` the same of as many random groups of the same sizes, drawn ten times
  from the channels that have evidence; ``difference`` between the two, image by image;
- ``groups``, and ``channels``, the median size of the first four.

Of the groups that the library makes there is ``measured``, too: the probability of the class with all channels
(``whole``), without those of the first group (``without``), and without a random group of as many (``random``, the mean
of ten draws as above); ``difference`` between the last two, image by image.

Means come with bootstrap 95% intervals over photographs. Photographs with a single group have no pairs: ``pairs``
counts the others. A photograph that fails ends the run, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy.cluster import hierarchy
from scipy.spatial import distance
from sklearn.cluster import KMeans

from cfcam_gpu import CFCAM, Config, environment, metrics, targets
from cfcam_gpu.core.cluster_filter import DOMINANT, NOISE
from cfcam_gpu.engines.reference import PRIMITIVES, dbscan
from cfcam_gpu.evaluation import data
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.named_models import models
from cfcam_gpu.results import ablation, components, durable
from cfcam_gpu.targets.outputs import logits_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FIRST = 8
SHOWN = 4
DRAWS = 10
BATCH = 8


class Seen(NamedTuple):
    """An explained photograph: the evidence and the activation of each channel, (C, h, w), and its label."""

    parts: Floats
    activations: Floats
    labels: Ints
    config: Config
    measured: dict[str, float]


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench.components", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="photographs and their classes")
    parser.add_argument("--out", type=Path, required=True, help="where components-MODEL.json is written")
    parser.add_argument("--model", default="lite0", help="as cfcam-gpu explain takes it")
    parser.add_argument("--limit", type=int, help="so many photographs, spread over the folder")
    given = parser.parse_args(argv)
    album = data.read(given.data).limited(given.limit)
    model = models.load(given.model)
    with torch.no_grad():
        blank = model.preparation.normalize(model.preparation.blank(1))
        album = album.with_classes_of(models.class_names(logits_of(model.module(blank)).shape[1]))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    labels: list[dict[str, float]] = []
    measured: list[dict[str, float]] = []
    batches = -(-len(album.photographs) // BATCH)
    seen = (
        one for batch in track(_explained(model, album), total=batches, console=Console(stderr=True)) for one in batch
    )
    empty = 0
    for i, one in enumerate(seen):
        if not one.parts.any():
            empty += 1
            continue
        labels.append(by_label(one))
        measured.append(one.measured)
        for name, variant in VARIANTS.items():
            rows[name].append(measure(one.parts, variant(one), seed=i))
    record = {
        "model": given.model,
        "trained": model.trained,
        "photographs": len(labels),
        "empty_maps": empty,
        "limit": given.limit,
        "versions": environment.describe()["versions"],
        "config": asdict(one.config),
        "likeness": components.LIKENESS,
        "evidence_by_label": {key: interval([row[key] for row in labels]) for key in labels[0]},
        "chosen": CHOSEN,
        "measured": {key: interval([row[key] for row in measured]) for key in measured[0]}
        | {"difference": paired(measured, "without", "random")},
        "variants": {name: summary(found) for name, found in rows.items()},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"components-{given.model}.json"
    with durable.replacing(path) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")
    print_table(record)
    print(path, file=sys.stderr)
    return 0


def _explained(model: models.Model, album: data.Album) -> Iterator[list[Seen]]:
    explain = CFCAM(model.module)
    for first in range(0, len(album.photographs), BATCH):
        samples = [photograph.load(model.preparation) for photograph in album.photographs[first : first + BATCH]]
        images = torch.stack([sample.image for sample in samples])
        result = explain(images, torch.cat([sample.classes for sample in samples]))
        captured = capture(model.module, result.layers[0], images, targets.Request(result.target))
        parts = components.evidence(result, images)
        groups = [first_and_random(of_image, result.config, seed=first + b) for b, of_image in enumerate(parts)]
        measured = [in_words(said.probabilities) for said in ablation.without(result, captured, images, groups)]
        found = zip(parts, captured.activations.double().numpy(), result.labels.numpy(), measured)
        yield [Seen(*arrays, result.config, said) for *arrays, said in found]


def first_and_random(parts: Floats, config: Config, *, seed: int) -> list[torch.Tensor]:
    """The channels of the strongest group, and of ten random groups of as many channels that have evidence."""
    numbers = components.group(parts, config)
    strongest, alive = np.flatnonzero(numbers == 0), np.flatnonzero(numbers >= 0)
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(alive)[: len(strongest)] for _ in range(DRAWS)]
    return [torch.from_numpy(group) for group in (strongest, *drawn)]


def in_words(probabilities: torch.Tensor | None) -> dict[str, float]:
    """With all channels, without the strongest group, and without a random one, in percent."""
    assert probabilities is not None
    whole, without, *drawn = (100 * probabilities).tolist()
    return {"whole": whole, "without": without, "random": sum(drawn) / len(drawn)}


def measure(parts: Floats, numbers: Ints, *, seed: int) -> dict[str, Any]:
    """What the module's docstring says of one photograph, whose channels have `numbers`, negative in no group."""
    evidence = parts.reshape(len(parts), -1)
    alive = np.flatnonzero(evidence.sum(axis=1) > 0)
    groups = [alive[numbers[alive] == k] for k in np.unique(numbers[alive]) if k >= 0]
    groups.sort(key=lambda members: -evidence[members].sum())
    shares = [evidence[members].sum() / evidence.sum() for members in groups]
    shown = groups[:SHOWN]
    generator = np.random.default_rng(seed)
    ends = np.cumsum([len(members) for members in shown])
    drawn = [np.split(generator.permutation(alive)[: ends[-1]], ends[:-1]) for _ in range(DRAWS)]
    return {
        "held": [float(sum(shares[:k])) for k in range(1, FIRST + 1)],
        "overlap": overlap(evidence, shown),
        "random": float(np.mean([overlap(evidence, groups) for groups in drawn])) if len(shown) > 1 else None,
        "groups": len(groups),
        "channels": float(np.median([len(members) for members in shown])),
    }


def overlap(evidence: Floats, groups: list[Ints]) -> float | None:
    """Mean over pairs of the histogram intersection of the groups' maps; None where there is no pair."""
    maps = [evidence[members].sum(axis=0) for members in groups]
    maps = [one / one.sum() for one in maps]
    pairs = [float(np.minimum(p, q).sum()) for p, q in combinations(maps, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def by_label(seen: Seen) -> dict[str, float]:
    """What of the evidence channels of each kind hold."""
    shares = seen.parts.sum(axis=(1, 2)) / seen.parts.sum()
    clusters = np.bincount(seen.labels[seen.labels >= 0], shares[seen.labels >= 0], minlength=1)
    return {
        "dominant": float(shares[seen.labels == DOMINANT].sum()),
        "clusters": float(clusters.sum()),
        "largest cluster": float(clusters.max()),
        "noise": float(shares[seen.labels == NOISE].sum()),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = [row for row in rows if row["overlap"] is not None]
    return {
        "held": [interval([row["held"][k] for row in rows]) for k in range(FIRST)],
        "pairs": len(pairs),
        "overlap": interval([row["overlap"] for row in pairs]),
        "random": interval([row["random"] for row in pairs]),
        "difference": paired(pairs, "overlap", "random"),
        "groups": {name: float(f([row["groups"] for row in rows])) for name, f in SPREAD.items()},
        "channels": float(np.median([row["channels"] for row in rows])),
    }


SPREAD: dict[str, Callable[[list[int]], Any]] = {"min": min, "median": np.median, "max": max}


def paired(rows: list[dict[str, Any]], one: str, other: str) -> dict[str, float]:
    """One less the other, row by row."""
    both = (torch.tensor([row[key] for row in rows]) for key in (one, other))
    return metrics.paired_difference(*both)._asdict()


def interval(values: list[float]) -> dict[str, float]:
    return metrics.mean_interval(torch.tensor(values))._asdict()


def print_table(record: dict[str, Any]) -> None:
    print("evidence by label:", ", ".join(f"{k} {v['mean']:.1%}" for k, v in record["evidence_by_label"].items()))
    print(f"{'':44}first  four  overlap  random  difference             groups  channels")
    for name, row in record["variants"].items():
        low, high = row["difference"]["low"], row["difference"]["high"]
        print(
            f"{name:44}{row['held'][0]['mean']:5.1%} {row['held'][3]['mean']:5.1%}   {row['overlap']['mean']:.3f}   "
            f"{row['random']['mean']:.3f}  {row['difference']['mean']:+.3f} [{low:+.3f}, {high:+.3f}]  "
            f"{row['groups']['median']:6.0f}  {row['channels']:8.1f}"
        )


# The ways to make groups. Each gives every channel a number, the same for the channels of a group, negative for none.


def _patterns(seen: Seen) -> tuple[Ints, Floats]:
    """Channels with evidence, and their patterns as `components.group` compares them, (N, h w)."""
    alive = np.flatnonzero(seen.parts.sum(axis=(1, 2)) > 0)
    smooth = PRIMITIVES.gaussian(seen.parts[alive], seen.config.sigma, seen.config.boundary)
    return alive, _unit(smooth)


def _unit(maps: Floats) -> Floats:
    flat = maps.reshape(len(maps), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(norms > 0, norms, 1.0)


def _numbered(seen: Seen, members: Ints, found: Ints) -> Ints:
    numbers = np.full(len(seen.labels), -1)
    numbers[members] = found
    return numbers


def chosen(seen: Seen) -> Ints:
    return components.group(seen.parts, seen.config)


def likeness(value: float) -> Callable[[Seen], Ints]:
    return lambda seen: components.group(seen.parts, seen.config, likeness=value)


def sigma(value: float) -> Callable[[Seen], Ints]:
    return lambda seen: components.group(seen.parts, replace(seen.config, sigma=value, noise_floor=0.0))


def of_activations(seen: Seen) -> Ints:
    alive = seen.parts.sum(axis=(1, 2)) > 0
    return components.group(np.where(alive[:, None, None], seen.activations.clip(min=0), 0.0), seen.config)


def ward(count: int) -> Callable[[Seen], Ints]:
    def variant(seen: Seen) -> Ints:
        alive, patterns = _patterns(seen)
        return _numbered(seen, alive, hierarchy.cut_tree(hierarchy.ward(patterns), n_clusters=count)[:, 0])

    return variant


def average_linkage(cut: float) -> Callable[[Seen], Ints]:
    def variant(seen: Seen) -> Ints:
        alive, patterns = _patterns(seen)
        tree = hierarchy.linkage(patterns, "average", "cosine")
        return _numbered(seen, alive, hierarchy.fcluster(tree, cut, "distance"))

    return variant


def k_means(count: int) -> Callable[[Seen], Ints]:
    """Weighted by evidence; starts from the strongest channel and those farthest from what is chosen, by weight."""

    def variant(seen: Seen) -> Ints:
        alive, patterns = _patterns(seen)
        weights = seen.parts[alive].sum(axis=(1, 2))
        starts = [int(weights.argmax())]
        while len(starts) < count:
            starts.append(int(((1 - patterns @ patterns[starts].T).min(axis=1) * weights).argmax()))
        fitted = KMeans(count, init=patterns[starts], n_init=1).fit(patterns, sample_weight=weights)
        return _numbered(seen, alive, fitted.labels_)

    return variant


def _dbscan(points: Floats, config: Config) -> Ints:
    """By the rule of `Config.two_level()`: eps is the median distance to the third neighbour, itself the first."""
    pairs = distance.pdist(points)
    k = config.eps_neighbor - 1
    eps = float(np.median(np.partition(distance.squareform(pairs), k, axis=1)[:, k]))
    return np.asarray(dbscan(pairs <= eps, len(points), config.min_samples_for(len(points))))


def dbscan_of_evidence(seen: Seen) -> Ints:
    alive, patterns = _patterns(seen)
    return _numbered(seen, alive, _dbscan(patterns, seen.config))


def _with_clusters(seen: Seen, dominant: Ints) -> Ints:
    """The method's own clusters, and groups of the dominant channels beside them."""
    return np.where(seen.labels >= 0, len(dominant) + seen.labels, dominant)


def clusters_and_dbscan(seen: Seen) -> Ints:
    members = np.flatnonzero(seen.labels == DOMINANT)
    found = _numbered(seen, members, _dbscan(_unit(seen.activations[members]), seen.config))
    return _with_clusters(seen, found)


def clusters_and_ward(seen: Seen) -> Ints:
    own = np.where((seen.labels == DOMINANT)[:, None, None], seen.parts, 0.0)
    return _with_clusters(seen, components.group(own, seen.config))


CHOSEN = f"Ward, likeness {components.LIKENESS}"
VARIANTS: dict[str, Callable[[Seen], Ints]] = {
    CHOSEN: chosen,
    "likeness 0.5": likeness(0.5),
    "likeness 0.6": likeness(0.6),
    "likeness 0.8": likeness(0.8),
    "no filter": sigma(0.0),
    "filter of sigma 1": sigma(1.0),
    "patterns of activations": of_activations,
    "Ward, always 4 groups": ward(4),
    "Ward, always 8 groups": ward(8),
    "average linkage, cosine, cut at 0.4": average_linkage(0.4),
    "k-means, always 8 groups": k_means(8),
    "DBSCAN": dbscan_of_evidence,
    "the method's clusters; dominant by DBSCAN": clusters_and_dbscan,
    "the method's clusters; dominant by Ward": clusters_and_ward,
}


if __name__ == "__main__":
    sys.exit(main())
