"""The tables of `bench.exact`, `bench.shapes` and `bench.innocence`, from their records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cfcam_gpu import methods

from .cost_tables import markdown
from .instruments import LIBRAGRAD, RESULTS, means

OURS = "cfcam"
TITLES = {
    "energy_pointing_game": "energy in the object",
    "pointing_game": "pointing game",
    "best_iou": "IoU",
    "distractor_energy": "energy in distractors",
    "two_objects": "right one of two objects",
    "average_drop": "Average Drop",
    "insertion_auc": "insertion",
    "deletion_auc": "deletion",
}
NAMES = {
    "layercam-fine": "LayerCAM, fine layer",
    OURS: "**CF-CAM, default**",
    "cfcam, plain gradients": "CF-CAM, default, plain gradients",
}
#: What is told of a map where a mark is the evidence.
SEEN = ("mark_energy", "object_energy", "mark_pointing", "object_pointing")
NETWORKS = {
    "honest": "as trained",
    "against gradcam": "trained on against Grad-CAM",
    "against cfcam": "trained on against CF-CAM",
}


def title(name: str) -> str:
    """A method in print."""
    if name in NAMES:
        return NAMES[name]
    if name.endswith(LIBRAGRAD):
        return f"{title(name.removesuffix(LIBRAGRAD)).strip('*')}, LibraGrad"
    return methods.METHODS[name].title


def listed(names: Iterable[str]) -> list[str]:
    """Those methods of a record that the library has, in its order, each before its form with LibraGrad's gradients."""
    order = list(dict.fromkeys([*methods.METHODS, *NAMES]))
    forms = [form for name in order for form in (name, name + LIBRAGRAD)]
    there = set(names)
    return [form for form in forms if form in there]


def recorded(name: str) -> dict[str, Any] | None:
    """A record; None where it was not made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def missing(command: str) -> Iterator[str]:
    """What stands in the place of a table that has no record."""
    return iter([f"Not measured yet: `python -m bench.{command}`."])


def exact() -> Iterator[str]:
    """Energy in the truth, and in what is no evidence; a row for each method, a column for each network."""
    record = recorded("exact")
    if record is None:
        return missing("exact")
    found = {name: means(one["table"]) for name, one in record["networks"].items()}
    names = listed(method for one in record["networks"].values() for method in one["methods"])
    rows = []
    for name in names:
        cells, pointing = [], []
        for values in found.values():
            if (name, "energy_pointing_game") not in values:
                cells.append("")
                continue
            cells.append(f"{values[name, 'energy_pointing_game']:.0f} / {values[name, 'wrong_energy']:.0f}")
            pointing.append(values[name, "pointing_game"])
        rows.append([title(name), *cells, f"{sum(pointing) / len(pointing):.0f}"])
    return markdown(["", *found, "pointing game, mean"], rows)


def shapes(network: str) -> Iterator[str]:
    """Means in percent, a row for each method, and what the default gains over Grad-CAM."""
    record = recorded(f"shapes-{network}")
    if record is None:
        return missing(f"shapes {network}")
    found = means(record["table"])
    rows = [[title(name), *(f"{found[name, metric]:.1f}" for metric in TITLES)] for name in listed(record["methods"])]
    gains = []
    for metric in TITLES:
        (line,) = [line for line in record["table"] if line["method"] == OURS and line["metric"] == metric]
        mean, low, high = (line["difference"][key] for key in ("mean", "low", "high"))
        if line["better"] == "low":
            mean, low, high = 0 - mean, 0 - high, 0 - low
        gains.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
    rows.append(["gain of the default over Grad-CAM", *gains])
    return markdown(["", *TITLES.values()], rows)


def innocence() -> Iterator[str]:
    """Where the maps of an honest network and of two that were trained to look innocent are."""
    record = recorded("innocence")
    if record is None:
        return missing("innocence")
    rows = []
    for name, one in record["networks"].items():
        found = means(one["table"])
        for method in ("gradcam", OURS):
            rows.append(
                [
                    NETWORKS[name],
                    *(f"{one[key]:.0f}" for key in ("accuracy", "accuracy_without_mark", "accuracy_without_object")),
                    title(method).strip("*"),
                    *(f"{found[method, metric]:.0f}" for metric in SEEN),
                ]
            )
    head = ["network", "accuracy", "without the mark", "without the object"]
    return markdown(
        [*head, "map of", "energy in the mark", "in the object", "points at the mark", "at the object"], rows
    )
