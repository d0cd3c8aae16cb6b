"""What the default promises of every network, against what was measured: ``python -m bench.bars`` prints it.

Reads the Parquet files that ``bench.evidence`` wrote, and pairs the default with every other method, input by input.
Promised is that it is ahead of Grad-CAM in two metrics at least, and behind no other method of the record in any; all
of these take gradients.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pyarrow import parquet

from cfcam_gpu.evaluation.suites import SUITES
from cfcam_gpu.metrics import Interval, paired_difference

EVALUATION = Path(__file__).resolve().parent / "results" / "evaluation"
OURS, FIRST = "cfcam", "gradcam"
#: Metrics, and whether high or low is better.
BETTER = {name: better for suite in SUITES.values() for one in suite.values() for name, better in one.metrics.items()}
#: The metrics of the promise.
PROMISED = ["energy_pointing_game", "pointing_game", "grid_2x2", "insertion_auc", "deletion_auc"]
#: In how many of them it is to be ahead of Grad-CAM.
AHEAD = 2


class Verdict(NamedTuple):
    """The metrics in which the default is ahead of Grad-CAM, and the methods that it is behind, each in a metric.

    Ahead and behind: the whole 95% interval of the gain is.
    """

    ahead: dict[str, Interval]
    behind: dict[tuple[str, str], Interval]

    @property
    def kept(self) -> bool:
        """Whether the promise is."""
        return len(self.ahead) >= AHEAD and not self.behind


def gains(network: str, folder: Path = EVALUATION) -> dict[tuple[str, str], Interval]:
    """For each other method and each metric our gain, in points: positive where ours is better.

    Raises
    ------
    OSError
        If the network has no record.
    """
    values: dict[tuple[str, str], dict[str, float]] = {}
    for row in parquet.read_table(folder / f"evidence-{network}.parquet").to_pylist():
        values.setdefault((row["method"], row["metric"]), {})[row["image"]] = row["value"]
    found = {}
    for (method, metric), theirs in values.items():
        if method != OURS:
            ours = values[OURS, metric]
            sign = -1 if BETTER[metric] == "low" else 1
            pairs = torch.tensor([(ours[image], value) for image, value in theirs.items()], dtype=torch.float64)
            found[method, metric] = paired_difference(sign * pairs[:, 0], sign * pairs[:, 1])
    return found


def judge(found: Mapping[tuple[str, str], Interval]) -> Verdict:
    """How the promise stands where these are the gains."""
    promised = {key: gain for key, gain in found.items() if key[1] in PROMISED}
    return Verdict(
        {metric: gain for (method, metric), gain in promised.items() if method == FIRST and gain.low > 0},
        {key: gain for key, gain in promised.items() if gain.high < 0},
    )


def told(gain: Interval | None) -> str:
    """A gain in print; nothing where it wasn't measured."""
    return "" if gain is None else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, whatever the verdicts are; 2 where nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.bars", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=EVALUATION)
    options = parser.parse_args(arguments)
    networks = [path.stem.removeprefix("evidence-") for path in sorted(options.folder.glob("evidence-*.parquet"))]
    if not networks:
        print(f"{options.folder} has no evidence-*.parquet; make bench writes them", file=sys.stderr)
        return 2
    for network in networks:
        verdict = judge(gains(network, options.folder))
        print(f"{network}: {'kept' if verdict.kept else 'not kept'}")
        for metric, gain in verdict.ahead.items():
            print(f"  ahead of {FIRST} in {metric}: {told(gain)}")
        for (method, metric), gain in verdict.behind.items():
            print(f"  behind {method} in {metric}: {told(gain)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
