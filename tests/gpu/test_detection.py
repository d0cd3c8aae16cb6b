"""Detectors on a GPU: one batched backward for all boxes, the CPU's maps, and windows of torchvision's heads."""

import pytest
import torch

from bench.planted_detector import Detector
from cfcam_gpu import explain_detections
from cfcam_gpu.hooks import gradients

from ..detection.networks import Planted, of_torchvision, of_transformers, spread
from .beside import close, double

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


def images(side=64):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_same(found, expected, device, atol=1e-4):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        assert len(theirs) > 0
        assert ours.names == theirs.names
        assert ours.layers == theirs.layers
        for name in ("boxes", "labels", "scores", "raw_maps", "maps", "share_in_box", "empty", "masks"):
            if getattr(theirs, name) is None:
                assert getattr(ours, name) is None
            else:
                close(getattr(ours, name), getattr(theirs, name), device, atol=atol)


@pytest.fixture
def detector():
    return double(spread(Detector()))


ASKED = {"threshold": 0.0, "top": 5}


def test_boxes_of_a_batch_are_explained_as_on_the_cpu_and_one_by_one(running, device, detector, monkeypatch):
    given = images().double()
    expected = explain_detections(detector, given, **ASKED)
    batches, many = [], gradients._many_at_once

    def counted(scores, reached):
        found = many(scores, reached)  # where that fails, boxes go one by one
        batches.append(len(scores))
        return found

    monkeypatch.setattr(gradients, "_many_at_once", counted)
    detector, given = detector.to(device), given.to(device)
    found = explain_detections(detector, given, engine=running, **ASKED)
    assert batches == [5], "of a GPU all boxes are one backward's"
    assert_same(found, expected, device)
    for i, (box, label) in enumerate(zip(found[1].boxes, found[1].labels.tolist())):
        (alone,) = explain_detections(detector, given[1:], boxes=box[None], labels=label, engine=running)
        close(alone.maps[0], found[1].maps[i].cpu(), device, atol=1e-3)


def test_what_is_made_of_detections_is_on_the_device(device, detector, tmp_path):
    given = images().double()
    detector, given = detector.to(device), given.to(device)
    found = explain_detections(detector, given, **ASKED)[0]
    assert found.overlay(given[0]).device == found.picture(given[0]).device == device
    assert found.clipped().maps.device == device
    assert found.describe()[0]["label"] == found.labels[0]
    assert len(found.save(tmp_path, image=given[0])) > 5
    none = explain_detections(detector, given, threshold=1.0)[0]
    assert none.maps.device == none.overlay(given[0]).device == device


def test_boxes_and_labels_may_be_on_the_host(device):
    """As what a detector's own post-processing, or `find`, brought there."""
    given, model = images(48) + 0.2, Planted().eval()
    expected = explain_detections(model, given, target_layer="features")
    model, on_device = model.to(device), given.to(device)
    assert_same(explain_detections(model, on_device, target_layer="features"), expected, device)

    def find(output):
        return [{**one, "boxes": one["boxes"].cpu()} for one in output]

    found = explain_detections(model, on_device, target_layer="features", find=find)
    assert_same(found, expected, device)
    box = torch.tensor([[30.0, 4.0, 40.0, 40.0]])
    for boxes in (box, box.to(device)):
        (one,) = explain_detections(model, on_device[:1], target_layer="features", boxes=boxes)
        close(one.boxes, box, device)


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd", "faster", "mask"])
def test_torchvisions_heads_are_explained_in_windows(device, kind, monkeypatch):
    model = of_torchvision(monkeypatch, kind)
    asked = {"threshold": 0.0, "top": 3}
    expected = explain_detections(model, list(images()), **asked)
    found = explain_detections(model.to(device), list(images().to(device)), **asked)
    assert_same(found, expected, device, atol=2e-3)


@pytest.mark.parametrize("kind", ["Detr", "RTDetr"])
def test_queries_are_explained(device, kind):
    model, asked = of_transformers(kind).double(), {"threshold": 0.0, "top": 3}
    expected = explain_detections(model, images().double(), **asked)
    found = explain_detections(model.to(device), images().double().to(device), **asked)
    assert_same(found, expected, device, atol=2e-3)
