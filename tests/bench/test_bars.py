"""The promises of the default and their verdicts."""

import pytest
import torch

from bench import bars
from bench.bars import Bar
from cfcam_gpu.evaluation import candidates
from cfcam_gpu.evaluation.table import Row, write_rows
from cfcam_gpu.metrics import Interval

from ..networks import lite0


@pytest.mark.parametrize(
    ("bar", "gain", "verdict"),
    [
        (Bar("", "", True, 5), (7, 6, 8), "met"),
        (Bar("", "", True, 5), (7, 4, 9), "open"),
        (Bar("", "", True, 5), (4, 3, 9), "missed"),
        (Bar("", "", False), (-1, -3, 1), "not refuted"),
        (Bar("", "", False), (2, 1, 3), "met"),
        (Bar("", "", False), (-2, -3, -1), "missed"),
        (Bar("", "", False, 2), (-1.5, -1.9, -1), "met"),
        (Bar("", "", False, 2), (-1.9, -2.4, -1), "open"),
        (Bar("", "", False, 2), (-2.2, -2.4, -1), "missed"),
    ],
)
def test_verdicts(bar, gain, verdict):
    assert bar.verdict(Interval(*map(float, gain))) == verdict


def test_pairs_by_image_whichever_direction_is_better(tmp_path, capsys):
    rows = [Row.of("gradcam", f"{i}.png", "average_drop", 30.0 + i) for i in range(5)]
    rows += [Row.of("cfcam", f"{i}.png", "average_drop", 20.0 + i) for i in reversed(range(5))]
    rows += [Row.of(method, "0.png", "best_iou", value) for method, value in (("gradcam", 1.0), ("cfcam", "no map"))]
    write_rows(tmp_path / "faithfulness-lite0.parquet", rows)
    assert bars.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| gradcam | average_drop | not worse | +10.0 [+10.0, +10.0] | met |" in lines
    assert "| gradcam | best_iou | better, 10 |  | not measured |" in lines
    assert bars.main([str(tmp_path), "--model", "lite1"]) == 2
    assert "no *-lite1.parquet" in capsys.readouterr().err


def test_what_is_promised_can_be_measured():
    there = candidates.find(lite0(), torch.zeros(1, 3, 224, 224))
    assert {bar.method for bar in bars.BARS} | {bars.OURS} <= set(there)
    assert {bar.metric for bar in bars.BARS} <= set(bars.BETTER)
    assert len({(bar.method, bar.metric) for bar in bars.BARS}) == len(bars.BARS)
