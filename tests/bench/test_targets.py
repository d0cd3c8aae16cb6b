"""The benchmark of many targets, on a network of milliseconds."""

import json

from bench import models, targets


def test_a_record(tmp_path, monkeypatch):
    cell = targets.Cell(
        models.tiny, "features", models.IMAGENET_NORM, lambda model, a: model.fc(model.flat(model.pool(a)))
    )
    monkeypatch.setattr(targets, "CELLS", {targets.BARRED: cell})
    assert targets.main(["--rounds", "3", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text())
    found = record["cells"][targets.BARRED]
    assert found["gate"]["passed"]
    assert record["bar"]["ratio"] == found["ratios"]["ten classes / one class"]["median"]
    assert record["bar"]["met"] == (record["bar"]["ratio"] <= 1.3)
    assert set(found["latency_ms"]) >= {"backward: one by one", "backward: batched", "backward: replay on copies"}


def test_wrong_maps_are_told(tmp_path, monkeypatch):
    cell = targets.Cell(models.tiny, "features", models.IMAGENET_NORM, None)
    monkeypatch.setattr(targets, "CELLS", {targets.BARRED: cell})
    monkeypatch.setattr(targets, "TOLERANCE", -1.0)
    assert targets.main(["--rounds", "3", "--out", str(tmp_path)]) == 1
