"""The benchmark of the components: its measures, counted by hand, and its record."""

import json

import numpy as np
import pytest
from PIL import Image

from bench import components as bench
from cfcam_gpu import Config

from ..networks import photographs

#: Four channels on a line of four positions, and one without evidence.
PARTS = np.array([[4.0, 4, 0, 0], [2, 2, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]])[:, None]


def test_overlap_is_what_the_maps_share():
    evidence = PARTS[:, 0]
    # (1/2, 1/2, 0, 0) and (0, 1/2, 1/2, 0) share 1/2, the first and the last nothing, the last two 1/2.
    assert bench.overlap(evidence, [np.array([0, 1]), np.array([2]), np.array([3])]) == pytest.approx(1 / 3)
    assert bench.overlap(evidence, [np.array([0]), np.array([1])]) == pytest.approx(1.0)
    assert bench.overlap(evidence, [np.array([0])]) is None


def test_measures_of_a_photograph():
    found = bench.measure(PARTS, np.array([5, 5, 1, -1, 7]), seed=0)
    assert found["held"] == pytest.approx([12 / 16] + [14 / 16] * 7)
    assert found["overlap"] == pytest.approx(0.5)
    assert (found["groups"], found["channels"]) == (2, 1.5)
    assert found["random"] == bench.measure(PARTS, np.array([0, 0, 1, -1, -1]), seed=0)["random"]
    assert bench.measure(PARTS, np.array([0, 0, 0, 0, -1]), seed=0)["random"] is None


def test_random_groups_are_of_the_size_of_the_strongest():
    strongest, *drawn = bench.first_and_random(PARTS, Config(sigma=0), seed=0)
    assert strongest.tolist() == [0, 1]
    assert len(drawn) == bench.DRAWS
    assert all(len(group) == 2 and len(set(group.tolist())) == 2 and 4 not in group for group in drawn)
    assert len({tuple(group.tolist()) for group in drawn}) > 1


def test_a_record_of_two_photographs(tmp_path, capsys):
    names, images = photographs()
    for name, index in (("chelsea", 282), ("flower", 985)):
        (tmp_path / "data" / str(index)).mkdir(parents=True)
        pixels = (images[names.index(name)] * 255).round().byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(tmp_path / "data" / str(index) / f"{name}.png")
    assert bench.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "components-lite0.json").read_text())
    assert record["photographs"] == 2
    assert set(record["variants"]) == set(bench.VARIANTS)
    for row in record["variants"].values():
        held = [interval["mean"] for interval in row["held"]]
        assert held == sorted(held)
        assert row["difference"]["mean"] == pytest.approx(row["overlap"]["mean"] - row["random"]["mean"])
    measured = record["measured"]
    assert 0 < measured["without"]["mean"] < measured["whole"]["mean"] < 100
    assert measured["difference"]["mean"] == pytest.approx(measured["without"]["mean"] - measured["random"]["mean"])
    kinds = record["evidence_by_label"]
    assert sum(kinds[kind]["mean"] for kind in ("dominant", "clusters", "noise")) == pytest.approx(1, abs=1e-6)
    assert bench.CHOSEN in capsys.readouterr().out
