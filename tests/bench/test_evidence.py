"""The records of the networks, and their tables."""

import json

import pytest
import torch

from bench import evidence, evidence_tables
from bench.evidence import Evidence, Group, Subject
from bench.torchvision_shim import import_torchvision
from cfcam_gpu import methods
from cfcam_gpu.evaluation import candidates
from cfcam_gpu.evaluation.data import Sample

from ..networks import two_scales
from ..transformers import pictures, transformer


@pytest.fixture(scope="module")
def model():
    return two_scales().eval()


@pytest.fixture(scope="module")
def subjects():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[50:120, 50:120] = True
    samples = [
        Sample(torch.rand(3, 224, 224, generator=generator), torch.tensor([place % 2]), mask, (224, 224))
        for place in range(2)
    ]
    measures = ["energy", "drop", "insertion", "gradient-noise"]
    return [Subject(str(place), place, one, one.classes[None], measures) for place, one in enumerate(samples)]


@pytest.fixture(scope="module")
def folder(model, subjects, tmp_path_factory):
    """With the record of a network whose inputs two models explain."""
    import_torchvision()
    groups = [Group(model, subjects[:1]), Group(model, subjects[1:])]
    folder = tmp_path_factory.mktemp("records")
    evidence.write(folder, *evidence.record("lite0", Evidence(groups, "2 of 4"), "reporting", None))
    return folder


def test_a_record_has_all_models_inputs_in_one_table(folder, model, subjects):
    about = json.loads((folder / "evidence-lite0.json").read_text())
    lines = {(line["method"], line["metric"]): line for line in about["table"]}
    sample = subjects[1].sample
    values = []
    for subject in subjects:
        found = candidates.find(model, sample.image[None])["gradcam"].maps(
            model, subject.sample.image[None], subject.sample.classes[None], (224, 224)
        )[0, 0]
        values.append(100 * float(found[50:120, 50:120].double().sum() / found.double().sum()))
    told = lines["gradcam", "energy_pointing_game"]
    assert told["images"] == 2
    assert told["mean"]["mean"] == pytest.approx(sum(values) / 2, abs=1e-3)
    # What has no gradients to give noise to is not measured under it; and HiResCAM is Grad-CAM on this network.
    assert lines["winsorcam", "gradient_noise_ssim"]["images"] == 0
    assert lines["cfcam", "gradient_noise_ssim"]["images"] == 2
    assert "hirescam" not in about["methods"]
    assert about["methods"]["cfcam"] == ["2", "4"]
    assert len(about["curves"]["insertion_auc"]["cfcam"]) == evidence.STEPS + 1


def test_the_tables_of_the_records(folder, monkeypatch):
    monkeypatch.setattr(evidence_tables, "EVALUATION", folder)
    line = next(line for line in evidence_tables.networks() if "EfficientNet" in line)
    assert line == "| EfficientNet-Lite0 | 2 of 4 | `2` and `4` | 2 (2 with a mask) |  |"
    head, _, *rows = evidence_tables.means("lite0", ["winsorcam", "cfcam", "legrad"])
    assert head == "|  | energy in mask | Average Drop | insertion | SSIM under gradient noise |"
    assert [row.split("|")[1].strip() for row in rows] == ["Winsor-CAM", "**CF-CAM, default**"]
    assert rows[0].endswith("|  |")
    against = [line.split("|")[2].strip() for line in evidence_tables.gains()][2:]
    assert against == [evidence_tables.title(rival) for rival in evidence_tables.RIVALS]
    assert list(evidence_tables.verdicts())[2].startswith("| EfficientNet-Lite0 | ")
    # A metric in which a method has no mean ranks none.
    assert "| metrics | 3 |" in list(evidence_tables.ranks())


def test_a_network_that_was_not_measured_has_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_tables, "EVALUATION", tmp_path)
    assert len(list(evidence_tables.means("vit"))) == len(list(evidence_tables.gains())) == 2


def test_methods_are_told_with_their_gradients():
    assert evidence_tables.title("gradcam+libragrad") == "Grad-CAM, last layer, LibraGrad"
    assert evidence_tables.title("cfcam+plain") == "CF-CAM, default, plain gradients"


def test_what_the_default_is_held_against_on_tokens_takes_gradients_and_is_there():
    images = pictures()[:1]
    sample = Sample(images[0], torch.tensor([0]), None, tuple(images.shape[2:]))
    group = Group(transformer(depth=4), [Subject("0", 0, sample, sample.classes[None], [])])
    names = [candidate.name for candidate in evidence.chosen("vit", group)]
    assert names == evidence.OF_TOKENS
    for name in names:
        base = name.removesuffix(candidates.LIBRAGRAD).removesuffix(candidates.PLAIN)
        assert methods.METHODS[base].gradients
        evidence_tables.title(name)
