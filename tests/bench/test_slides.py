"""The benchmark of slides, on small ones."""

import json

import pytest

from bench import slide_tables, slides


def test_records_of_both_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "keep_freed_memory", lambda: None)  # it is for the rest of the process
    few = ["--side", "700", "--batch-size", "8", "--out", str(tmp_path)]
    assert slides.main(["throughput", "--model", "tests.albums:small", "--rounds", "2", *few]) == 0
    assert slides.main(["memory", *few]) == 0
    (path,) = tmp_path.glob("*-slides.json")
    record = json.loads(path.read_text())
    speed = record["throughput"]
    for kept, of_slide, bare in zip(
        speed["kept"]["rounds"], *(speed["tiles_per_second"][name]["rounds"] for name in ("slide", "bare"))
    ):
        assert kept == pytest.approx(of_slide / bare, rel=0.02)
    assert speed["difference"] <= slides.TOLERANCE
    networks = record["memory"]["networks"]
    assert networks["bench.slides:tiny"]["tiles"] > networks["lite0"]["tiles"] > 0
    for found in networks.values():
        assert 50 < found["peak_mib"]["process"] < found["peak_mib"]["with_readers"]
        # In a process that other tests have filled, too.
        assert found["peak_mib"]["with_readers"] - found["peak_mib"]["process"] < 1024
    monkeypatch.setattr(slide_tables, "recorded", lambda name: record)
    monkeypatch.setattr(slide_tables, "RESULTS", tmp_path)
    assert "the bare explainer on ready tiles" in "\n".join(slide_tables.costs())


def test_a_map_that_is_another_one_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "keep_freed_memory", lambda: None)
    right = slides._stitched
    monkeypatch.setattr(slides, "_stitched", lambda *given: right(*given) + 1e-4)
    options = ["--side", "700", "--batch-size", "8", "--rounds", "1", "--out", str(tmp_path)]
    with pytest.raises(RuntimeError, match="not the one of the bare explainer"):
        slides.main(["throughput", "--model", "tests.albums:small", *options])
    assert not list(tmp_path.iterdir())
