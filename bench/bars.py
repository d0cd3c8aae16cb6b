"""What the two-level default promises, against what was measured: ``python -m bench.bars`` prints it, as Markdown.

Reads the Parquet files that ``cfcam-gpu bench`` wrote, and pairs the default with each method that it is promised
against, image by image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from pyarrow import parquet

from cfcam_gpu.evaluation.suites import SUITES
from cfcam_gpu.metrics import Interval, paired_difference

ROOT = Path(__file__).resolve().parents[1]
OURS = "cfcam"
#: Metrics, and whether high or low is better.
BETTER = {name: better for suite in SUITES.values() for one in suite.values() for name, better in one.metrics.items()}
ENERGY, POINTING, IOU = "energy_pointing_game", "pointing_game", "best_iou"
GRIDS = ("grid_2x2", "grid_3x3")
NOISE, RANDOM = "gradient_noise_ssim", "classifier_randomisation_ssim"


class Bar(NamedTuple):
    """Against `method`, in `metric`, the default is better by `margin` (points), or at most `margin` worse."""

    method: str
    metric: str
    better: bool
    margin: float = 0.0

    def verdict(self, gain: Interval) -> str:
        """``met`` where the whole interval is beyond the margin, ``open`` where only the mean is, else ``missed``.

        That two are equally good can't be shown by an interval: ``not refuted`` is one that holds 0 where the promise
        is not to be worse, without a margin.
        """
        least = self.margin if self.better else -self.margin
        if gain.low > least:
            return "met"
        if not self.better and self.margin == 0 and gain.high >= 0:
            return "not refuted"
        return "open" if gain.mean >= least else "missed"


BARS = [
    Bar("gradcam", ENERGY, True, 5),
    Bar("gradcam", POINTING, True, 15),
    Bar("gradcam", IOU, True, 10),
    Bar("gradcam", "insertion_auc", True, 1),
    *(Bar("gradcam", metric, False) for metric in (*GRIDS, "average_drop", "average_increase", "adcc", "deletion_auc")),
    Bar("gradcam", NOISE, False, 2),
    Bar("gradcam", RANDOM, False, 10),
    *(
        Bar(method, metric, better)
        for method in ("layercam-fine", "gradcam*layercam-fine")
        for better, metrics in ((True, (ENERGY, *GRIDS, NOISE)), (False, (IOU, "average_drop", "insertion_auc")))
        for metric in metrics
    ),
    *(
        Bar("cfcam-paper", metric, True)
        for metric in (
            *(ENERGY, POINTING, IOU, *GRIDS, "insertion_auc", "deletion_auc"),
            *("average_drop", "average_increase", "adcc", RANDOM),
        )
    ),
]


def values(folder: Path, model: str) -> dict[tuple[str, str], dict[str, float | None]]:
    """For each metric and method its value on each image."""
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for path in sorted(folder.glob(f"*-{model}.parquet")):
        for row in parquet.read_table(path).to_pylist():
            found.setdefault((row["metric"], row["method"]), {})[row["image"]] = row["value"]
    return found


def judge(found: dict[tuple[str, str], dict[str, float | None]]) -> Iterator[tuple[Bar, Interval | None, str]]:
    """Each bar with our gain, positive where ours is better, and the verdict."""
    for bar in BARS:
        ours, theirs = (found.get((bar.metric, method), {}) for method in (OURS, bar.method))
        if not ours or ours.keys() != theirs.keys() or None in {*ours.values(), *theirs.values()}:
            yield bar, None, "not measured"
            continue
        sign = -1 if BETTER[bar.metric] == "low" else 1
        pair = [torch.tensor([sign * one[image] for image in ours], dtype=torch.float64) for one in (ours, theirs)]
        gain = paired_difference(*pair)
        yield bar, gain, bar.verdict(gain)


def told(gain: Interval | None) -> str:
    """A gain in print; nothing where it wasn't measured."""
    return "" if gain is None else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def main(arguments: list[str] | None = None) -> int:
    """0, whatever the verdicts are; 2 where nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.bars", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "bench" / "results" / "evaluation")
    parser.add_argument("--model", default="lite0")
    options = parser.parse_args(arguments)
    found = values(options.folder, options.model)
    if not found:
        print(f"{options.folder} has no *-{options.model}.parquet with results", file=sys.stderr)
        return 2
    print("| against | metric | promised | gain, 95% interval | |\n|---|---|---|---|---|")
    for bar, gain, verdict in judge(found):
        promised = f"{'better' if bar.better else 'not worse'}{f', {bar.margin:g}' if bar.margin else ''}"
        print(f"| {bar.method} | {bar.metric} | {promised} | {told(gain)} | {verdict} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
