"""The benchmark of pipelines, on a few images."""

import json

import pytest

from bench import pipelines


def test_records_of_both_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines, "keep_freed_memory", lambda: None)  # it is for the rest of the process
    here = ["--workers", "0", "--out", str(tmp_path)]
    few = ["--model", "tests.albums:small", "--images", "4", "--batch-size", "2", "--rounds", "2"]
    assert pipelines.main(["overhead", *few, *here]) == 0
    assert pipelines.main(["memory", "--images", "640", "--batch-size", "32", *here]) == 0
    (path,) = tmp_path.glob("*-pipelines.json")
    record = json.loads(path.read_text())
    assert record["overhead"]["settings"] == {"images": 4, "batch_size": 2, "workers": 0}
    throughput = record["overhead"]["throughput"]
    assert min(throughput["decode"]["rounds"]) > 0
    for kept, run, bare in zip(
        record["overhead"]["kept"]["rounds"], *(throughput[k]["rounds"] for k in ("run", "bare"))
    ):
        assert kept == pytest.approx(run / bare, rel=0.02)
    memory = record["memory"]
    assert len(memory["images"]) == len(memory["resident_mib"]) > 1
    assert min(memory["resident_mib"]) > 10
    assert memory["workers_mib"] == [0.0] * len(memory["images"])
