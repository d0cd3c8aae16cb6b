"""The benchmark of scaling, on a tiny network."""

import json

import pytest
import torch

from bench import cost_tables, scaling


@pytest.fixture
def record(tmp_path, monkeypatch):
    """What a quick run writes, of two photographs at most and without processes of its own."""
    photographs = scaling.models.photographs
    monkeypatch.setattr(scaling.models, "photographs", lambda count, norm: photographs(min(count, 2), norm))
    monkeypatch.setattr(scaling, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(scaling, "BUDGET_MS", 0.0)
    monkeypatch.setattr(
        scaling.memory, "in_child", lambda work, network, name, size: {"forward": 2, "two-level": 3}[name]
    )
    rates = {"1": 10.0, "2": 19.0, "4": 18.0}
    monkeypatch.setattr(scaling, "side_by_side", lambda *given: {"forward": rates, "cfcam": rates})
    given = ["--network", "tiny", "--batches", "1", "2", "--out", str(tmp_path)]
    assert scaling.main(given) == 0
    (path,) = tmp_path.glob("*-cores-scaling.json")
    monkeypatch.setattr(cost_tables, "RESULTS", tmp_path)
    return json.loads(path.read_text())


def test_the_record_and_its_tables(record):
    assert set(record["asked"]["ratios"]) == {
        f"{name} / plain" for name in ("components", "ten classes", "smooth=8", "augment=flip")
    }
    assert {name: one["shape"][2:] for name, one in record["inputs"].items()} == {
        "volumes, 64 x 64 x 64": [64, 64, 64],
        "signals, 10,000 samples": [10_000],
    }
    assert [line.split(" | ")[0] for line in list(cost_tables.scaling_batches())[2:]] == ["| 1", "| 2"]
    assert list(cost_tables.scaling_batches())[3].endswith("| 1.5 | 1.50 |")
    assert list(cost_tables.scaling_asked())[2].startswith("| components | ")
    assert len(list(cost_tables.scaling_inputs())) == 4
    cores = record["machine"]["cores"]
    if cores == 2:
        assert list(cost_tables.scaling_processes())[3:5] == [
            "| bare forward | 2 | 19.0 | 1.90 | 95% |",
            "| bare forward | 4 | 18.0 | 1.80 | 90% |",
        ]


@pytest.mark.parametrize(
    ("make", "shape", "last"),
    [
        (scaling.network_of_volumes, (1, 1, 64, 64, 64), (128, 8, 8, 8)),
        (scaling.network_of_signals, (1, 1, 10_000), (128, 157)),
    ],
)
def test_the_networks_of_other_inputs(make, shape, last):
    with torch.no_grad():
        assert make()[:6](torch.zeros(shape)).shape[1:] == last


@pytest.mark.long
def test_processes_side_by_side():
    found = scaling.side_by_side("tiny", (1, 2), 0.5)
    assert {name: list(rates) for name, rates in found.items()} == {"forward": ["1", "2"], "cfcam": ["1", "2"]}
    assert min(rate for rates in found.values() for rate in rates.values()) > 0
