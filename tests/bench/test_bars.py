"""The promise of the default, and whether it is kept."""

import pytest

from bench import bars
from cfcam_gpu.evaluation.table import Row, write_rows
from cfcam_gpu.metrics import Interval

AHEAD, LEVEL, BEHIND = Interval(2.0, 1.0, 3.0), Interval(-1.0, -3.0, 1.0), Interval(-2.0, -3.0, -1.0)


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ({("gradcam", "pointing_game"): AHEAD, ("gradcam", "insertion_auc"): AHEAD}, True),
        ({("gradcam", "pointing_game"): AHEAD, ("gradcam", "insertion_auc"): LEVEL}, False),
        ({("gradcam", "pointing_game"): AHEAD, ("legrad", "insertion_auc"): AHEAD}, False),
        (
            {
                ("gradcam", "pointing_game"): AHEAD,
                ("gradcam", "insertion_auc"): AHEAD,
                ("legrad", "deletion_auc"): BEHIND,
            },
            False,
        ),
        (
            {
                ("gradcam", "pointing_game"): AHEAD,
                ("gradcam", "grid_2x2"): AHEAD,
                ("legrad", "best_iou"): BEHIND,  # of which nothing is promised
                ("legrad", "deletion_auc"): LEVEL,
            },
            True,
        ),
    ],
)
def test_promises(gains, kept):
    assert bars.judge(gains).kept == kept


def test_pairs_by_image_whichever_direction_is_better(tmp_path, capsys):
    rows = [Row.of("gradcam", f"{i}.png", "deletion_auc", 30.0 + i) for i in range(5)]
    rows += [Row.of("cfcam", f"{i}.png", "deletion_auc", 20.0 + i) for i in reversed(range(5))]
    rows += [Row.of("gradcam", f"{i}.png", "pointing_game", 50.0 + i) for i in range(5)]
    rows += [Row.of("cfcam", f"{i}.png", "pointing_game", 60.0 + i) for i in reversed(range(5))]
    rows += [Row.of("legrad", f"{i}.png", "pointing_game", 61.0 + i) for i in range(4)]  # on fewer
    write_rows(tmp_path / "evidence-vit.parquet", rows)
    found = bars.gains("vit", tmp_path)
    assert found["gradcam", "deletion_auc"].mean == pytest.approx(10)
    assert found["legrad", "pointing_game"].mean == pytest.approx(-1)
    assert bars.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "vit: not kept",
        "  ahead of gradcam in deletion_auc: +10.0 [+10.0, +10.0]",
        "  ahead of gradcam in pointing_game: +10.0 [+10.0, +10.0]",
        "  behind legrad in pointing_game: -1.0 [-1.0, -1.0]",
    ]
    assert bars.main([str(tmp_path / "none")]) == 2
    assert "has no evidence-*.parquet" in capsys.readouterr().err


def test_what_is_promised_can_be_measured():
    assert set(bars.PROMISED) <= set(bars.BETTER)
