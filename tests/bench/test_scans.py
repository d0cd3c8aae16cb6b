"""The benchmark of scans, on small ones."""

import json

import numpy as np
import pytest

from bench import cost_tables, scan_tables, scans


@pytest.fixture
def small(tmp_path, monkeypatch):
    for name, value in {"SIDE": 64, "SLICES": 12, "SIZE": (8, 8, 8), "ROUNDS": 1, "RESULTS": tmp_path}.items():
        monkeypatch.setattr(scans, name, value)
    monkeypatch.setattr(scans, "PREPARATION", scans.VolumePreparation((8, 8, 8)))
    monkeypatch.setattr(scans, "in_child", lambda work, *given: work(*given))
    for kept in (scans._volume, scans._series, scans._map):
        kept.cache_clear()


def test_the_record_and_its_table(small, tmp_path, monkeypatch):
    assert scans.main() == 0
    (path,) = tmp_path.glob("*-cores-scans.json")
    found = json.loads(path.read_text())["measured"]
    assert set(found) == set(scan_tables.TITLES)
    assert all(one["ratio"]["median"] > 0 for one in found.values() if "bare" in one["seconds"])
    for module in (cost_tables, scan_tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    lines = list(scan_tables.costs())
    assert len(lines) == 2 + len(scan_tables.TITLES)
    assert lines[2].count(" of pydicom's") == 1


@pytest.mark.parametrize("what", ["stored", "_map"])
def test_nothing_is_timed_that_is_not_right(small, monkeypatch, what):
    right = getattr(scans, what)
    made = []

    def other(*given):
        made.append(given)
        return right(*given) + np.asarray(len(made) > 1, right(*given).dtype)  # after what was written

    other.cache_clear = lambda: None
    monkeypatch.setattr(scans, what, other)
    with pytest.raises(RuntimeError, match="not what was written"):
        scans.main()
