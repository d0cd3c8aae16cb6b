"""Networks built by hand: that their evidence is where it is said to be, and that maps are on it."""

import json
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch

from bench import exact, instruments
from cfcam_gpu import CAM, CFCAM, Config

GREY = torch.tensor(0.35)
#: All but the one in which logits and probabilities have other evidence.
PLAIN = [name for name in exact.NETWORKS if name != "common"]


@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_the_truth_is_all_the_evidence(name):
    built = exact.NETWORKS[name]()
    whole = built.model(built.images)
    for k in range(built.truth.shape[1]):
        truth, wrong = built.truth[:, k, None], built.wrong[:, k, None]
        assert not (truth & wrong).any()
        without = built.model(torch.where(truth, GREY, built.images))[:, k]
        alone = built.model(torch.where(wrong, GREY, built.images))[:, k]
        # Without it there is no score, and without what is wrong none is lost.
        assert (without <= 1e-5).all()
        assert (alone >= whole[:, k] - 1e-5).all()
        assert (whole[:, k] > 0.25).all()


@pytest.mark.parametrize("name", PLAIN)
def test_the_default_finds_the_truth(name):
    built = exact.NETWORKS[name]()
    ours = exact.of_method(built, instruments.explain(CFCAM(built.model)))
    theirs = exact.of_method(built, instruments.explain(CAM(built.model)))
    assert theirs["pointing_game"].min() == 100
    assert ours["pointing_game"].min() == 100
    assert ours["energy_pointing_game"].min() > 60
    assert ours["wrong_energy"].max() < 2


def test_what_speaks_for_all_classes_alike_is_evidence_for_the_logit_alone():
    built = exact.common()
    with torch.no_grad():
        whole = built.model(built.images)
        without = built.model(torch.where(built.wrong[:, :1], GREY, built.images))
    torch.testing.assert_close(without.softmax(dim=1), whole.softmax(dim=1))
    assert (whole[:, 0] - without[:, 0] > 0.9).all()
    against_others = CFCAM(built.model, config=replace(Config.two_level(), contrast=1.0))
    explainers = {"gradcam": CAM(built.model), "default": CFCAM(built.model), "log-odds": against_others}
    wrong = {
        name: exact.of_method(built, instruments.explain(explainer))["wrong_energy"].mean()
        for name, explainer in explainers.items()
    }
    assert wrong["log-odds"] < 1
    assert 1 < wrong["default"] < wrong["gradcam"]


def test_the_record(tmp_path, monkeypatch):
    kept = {name: instruments.methods.METHODS[name] for name in ("gradcam", "layercam", "cfcam", "legrad")}
    monkeypatch.setattr(instruments.methods, "METHODS", MappingProxyType(kept))
    monkeypatch.setattr(exact, "NETWORKS", {"watermark": exact.watermark})
    assert exact.main(["--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "exact.json").read_text())["networks"]["watermark"]
    assert set(record["methods"]) == {"gradcam", "layercam", "cfcam", "layercam-fine"}
    assert "attention" in record["refused"]["legrad"]
    found = instruments.means(record["table"])
    assert found["cfcam", "energy_pointing_game"] > 70
    assert {line["images"] for line in record["table"]} == {exact.IMAGES}
