"""What a user does with an explanation on a GPU: parts and copies, pictures, files, and the figures of one."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from cfcam_gpu import CFCAM, compare
from cfcam_gpu.results import save_evidence

from ..small import Network, draw
from .beside import NAMES, close, double, same

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


@pytest.fixture
def images(device):
    return draw(0).double().to(device)


@pytest.fixture
def explained(device, images):
    return CFCAM(double(Network()).to(device), ["early", "late"], class_names=NAMES)(images, ["cat", None, 4])


@pytest.fixture
def expected():
    return CFCAM(double(Network()), ["early", "late"], class_names=NAMES)(draw(0).double(), ["cat", None, 4])


def test_parts_are_on_the_device_whatever_picks_them(device, explained, expected):
    same(explained[1], expected[1], device)
    for index in (
        [True, False, True],
        [0, 2],
        torch.tensor([0, 2]),
        torch.tensor([0, 2], device=device),
        slice(0, 3, 2),
    ):
        same(explained[index], expected[[0, 2]], device)
    assert [one.classes for one in explained] == [[name] for name in explained.classes]


def test_copies_are_on_the_host_or_where_they_were(device, explained, expected):
    host = torch.device("cpu")
    same(explained.cpu(), expected, host)
    same(explained.cpu().to(device), expected, device)
    assert explained.to(device) is explained
    same(copy.deepcopy(explained), expected, device)
    np.testing.assert_allclose(np.asarray(explained), expected.numpy(), atol=1e-4)
    assert device.type in repr(explained)


def test_a_pickle_is_where_it_was(device, explained, expected):
    same(pickle.loads(pickle.dumps(explained)), expected, device)


def test_overlays_are_made_on_the_device(device, explained, expected, images):
    theirs = expected.overlay(images.cpu())
    assert explained.overlay(images).device == device
    # One level of 255, where a value is rounded.
    assert (explained.overlay(images).cpu().int() - theirs.int()).abs().max() <= 1
    with pytest.raises(ValueError, match=f"images: expected device '{device}', as the maps; got 'cpu'"):
        explained.overlay(images.cpu())


def test_a_notebook_shows_the_images_until_they_change(explained, images):
    assert explained._repr_html_().count("<img") == 7  # an image and an overlay of each, and the scale
    assert "The images are gone" not in explained[:2]._repr_html_()
    images[0, 0, 0, 0] += 1
    assert "The images are gone" in explained._repr_html_()


def test_figures_and_files(explained, expected, images, tmp_path):
    figures = [
        explained.figure(),
        explained.figure(images),
        compare({"here": explained, "there": explained.cpu()}, images),
    ]
    figures.append(explained.figure(images, components=explained.components(images, 2)))
    for figure in figures:
        figure.savefig(tmp_path / "figure.png")
    files = explained.save(tmp_path / "files", images=images)
    assert {path.suffix for path in files} >= {".npy", ".png", ".jsonl"}
    expected.save(tmp_path / "theirs", images=images.cpu())
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "explanations.jsonl").read_text().splitlines()]
        for name in ("files", "theirs")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["class"] == other["class"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_trust_is_the_cpus_but_for_the_noise(device, explained, expected, images, tmp_path):
    found, theirs = explained.trust(images), expected.trust(images.cpu())
    for name in ("flip", "runner_up", "agreement", "gap", "runner_up_empty"):
        close(getattr(found, name), getattr(theirs, name), device)
    assert found.noise.device == device
    assert bool((found.noise.abs() <= 1).all())
    assert torch.equal(explained.trust(images).noise, found.noise), "noise is the same every time"
    assert (found.classes, found.runner_ups) == (theirs.classes, theirs.runner_ups)
    assert "stability" in repr(found)
    told = [json.loads(path.read_text()) for path in save_evidence(explained, tmp_path, images, trust=found)]
    assert [one["explained"]["class"] for one in told] == explained.classes


def test_what_the_model_says_without_a_component(explained, expected, images):
    found = explained.components(images, 2, measured=True)
    for ours, theirs in zip(found, expected.components(images.cpu(), 2, measured=True), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.channels.tolist() == other.channels.tolist()
            assert one.probability_without == pytest.approx(other.probability_without, rel=1e-4)
            assert one.score_without == pytest.approx(other.score_without, rel=1e-4)
