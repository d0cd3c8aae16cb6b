"""The benchmark of the methods that run the network many times: its record of costs, and its measures of maps."""

import json

import numpy as np
import pytest
from PIL import Image

from bench import cost_tables, gradient_free, tables
from cfcam_gpu.evaluation import evaluate

MODEL = "tests.networks:two_scales"


@pytest.fixture(autouse=True)
def memory_as_ever(monkeypatch):
    """Keeping freed memory lasts as long as the process, and other tests look at how its memory grows."""
    monkeypatch.setattr(gradient_free, "keep_freed_memory", lambda: None)


@pytest.fixture
def cost(tmp_path):
    """Times the tiny network; the exit status and the record."""

    def run():
        status = gradient_free.main(["cost", "--network", "tiny", "--rounds", "3", "--out", str(tmp_path)])
        (path,) = tmp_path.glob("*-gradient-free.json")
        return status, json.loads(path.read_text())

    return run


def test_a_record_of_costs(cost):
    status, record = cost()
    assert status == 0
    assert set(record["gates"]) == {"cfcam", "gradcam", "ablationcam", "scorecam"}
    assert set(record["processor_ms"]) == {"forward", "cfcam", gradient_free.FINE, *gradient_free.METHODS}
    times = record["processor_ms"]
    assert record["ratios"]["scorecam / cfcam"]["rounds"] == pytest.approx(
        [a / b for a, b in zip(times["scorecam"]["rounds"], times["cfcam"]["rounds"])], rel=1e-2
    )


def test_a_map_that_is_not_the_method_s_has_no_figures(cost, monkeypatch, capsys):
    monkeypatch.setattr(gradient_free, "score_cam", lambda model, true: np.eye(14)[None])
    status, record = cost()
    assert status == 1
    assert not any("scorecam" in name for name in (*record["processor_ms"], *record["ratios"]))
    assert "FAILED" in capsys.readouterr().out


def test_maps_are_measured_as_by_the_command(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    draw = np.random.default_rng(0)
    lines = ["file,mask,class_index"]
    for i in range(4):
        Image.fromarray(draw.integers(0, 256, (224, 224, 3), np.uint8)).save(data / f"{i}.png")
        Image.fromarray(np.tri(224, k=-30 * i, dtype=bool)).save(data / f"mask{i}.png")
        lines.append(f"{i}.png,mask{i}.png,{i}")
    (data / "manifest.csv").write_text("\n".join(lines) + "\n")
    (data / "mosaics.csv").write_text("grid,files_row_major\n2,0.png;1.png;2.png;3.png\n")
    asked = ["maps", "--data", str(data), "--model", MODEL, "--out", str(out), "--limit", "2"]
    assert gradient_free.main(asked) == 0
    assert "minus cfcam" in capsys.readouterr().out
    for suite, metrics in {"localisation": ["energy", "grid2"], "faithfulness": ["drop", "deletion"]}.items():
        record = json.loads((out / f"{suite}-tests.networks_two_scales.json").read_text())
        assert record["reference"] == "cfcam"
        assert set(record["methods"]) == {"cfcam", *gradient_free.METHODS}
        found = {(line["metric"], line["method"]): line["mean"]["mean"] for line in record["table"]}
        job = evaluate.Job(
            suite=suite, data=data, out=tmp_path, model=MODEL, methods=["scorecam"], metrics=metrics, limit=2, step=6272
        )
        run = evaluate.check(job)
        run.execute(lambda count: None)
        rows = [row for row in run.rows if row.method == "scorecam"]
        for metric in {row.metric for row in rows}:
            expected = np.mean([row.value for row in rows if row.metric == metric])
            assert found[metric, "scorecam"] == pytest.approx(expected, abs=1e-3)


def test_a_gain_is_positive_where_ours_is_better(tmp_path, monkeypatch):
    (tmp_path / "gradient-free").mkdir()
    difference = {"mean": 2.0, "low": 1.0, "high": 4.0}
    lines = [
        {"method": "scorecam", "metric": metric, "better": better, "mean": {"mean": 50.0}, "difference": difference}
        for metric, better in (("best_iou", "high"), ("average_drop", "low"))
    ]
    (tmp_path / "gradient-free" / "any-lite0.json").write_text(json.dumps({"table": lines}))
    ratios = {"scorecam / forward": {"median": 612.3}, "scorecam / cfcam": {"median": 99.96}}
    (tmp_path / "x-2-cores-gradient-free.json").write_text(json.dumps({"ratios": ratios}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(cost_tables, "RESULTS", tmp_path)
    (row,) = [line for line in tables.gradient_free_gains() if line.startswith("| Score-CAM")]
    assert row == "| Score-CAM |  |  | -2.0 [-4.0, -1.0] |  | +2.0 [+1.0, +4.0] |  |  |  |  |"
    (row,) = [
        line
        for line in tables.gradient_free(tables.MANY_FORWARDS, tables.OF_MANY_FORWARDS)
        if line.startswith("| Score-CAM")
    ]
    assert row == "| Score-CAM | 612 | 100.0 |  |  | 50.0 |  | 50.0 |  |  |  |  |"
