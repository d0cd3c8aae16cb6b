"""What a user asks of detections, is refused, and does with them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.planted_detector import Detector
from cfcam_gpu import Config, explain_detections
from cfcam_gpu.detection import maps

from .networks import Planted, Yolo, spread


@pytest.fixture
def planted():
    return Planted().eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) + 0.2


def explained(model, images, **options):
    return explain_detections(model, images, target_layer="features", **options)


def test_nothing_found_is_no_error(planted, images, tmp_path):
    dark, bright = explained(planted, torch.stack([images[0] * 0, images[1]]), threshold=0.6)
    assert len(dark) == 0
    assert len(bright) == 2
    assert dark.maps.shape == (0, 48, 64)
    assert dark.overlay(images[0]).shape == (0, 48, 64, 3)
    assert dark.picture(images[0]).shape == (48, 64, 3)
    assert [path.name for path in dark.save(tmp_path)] == ["image.json"]


def test_classes_are_looked_for_by_index_or_name(planted, images):
    for labels in (1, "right", ["right"], torch.tensor([1])):
        assert [one.names for one in explained(planted, images, labels=labels)] == [("right",)] * 2
    assert explained(planted, images, class_names=["a", "b"], labels="b")[0].names == ("b",)
    assert [len(one) for one in explained(planted, images, top=1)] == [1, 1]


def test_an_engine_runs_once_an_image_and_layer_for_all_boxes(monkeypatch):
    model, runs, compute = spread(Detector()).eval(), [], maps.compute

    def counted(activations, gradients, config, engine):
        runs.append(gradients.shape[1])
        return compute(activations, gradients, config, engine)

    monkeypatch.setattr(maps, "compute", counted)
    given = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = explain_detections(model, given, threshold=0.0, top=5, target_layer=["fine", "near"])
    assert runs == [5] * 4
    for one, image in zip(found, given):
        alone = explain_detections(model, image[None], threshold=0.0, top=1, target_layer=["fine", "near"])
        torch.testing.assert_close(alone[0].raw_maps[0], one.raw_maps[0])
        assert alone[0].layers == one.layers[:1]


class Apart(nn.Module):
    """Each of two boxes has a branch of its own; the other one's has a weight of 0 in its score."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = (nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU()) for _ in range(2))

    def forward(self, images):
        of_branches = torch.stack([branch(images).mean(dim=(1, 2, 3)) for branch in (self.left, self.right)], dim=1)
        boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0], [30.0, 2.0, 60.0, 30.0]])
        scores = (of_branches @ torch.eye(2)).sigmoid()
        return [{"boxes": boxes, "labels": torch.arange(2), "scores": row} for row in scores]


def test_a_layer_without_a_part_in_a_score_is_not_named_and_adds_nothing(images):
    model = Apart().eval()
    for found, image in zip(explain_detections(model, images, threshold=0.0, target_layer=["left", "right"]), images):
        assert dict(zip(found.labels.tolist(), found.layers)) == {0: ("left",), 1: ("right",)}
        for label, raw_map in zip(found.labels.tolist(), found.raw_maps):
            layer, box = ["left", "right"][label], found.boxes[found.labels == label]
            (alone,) = explain_detections(model, image[None], boxes=box, target_layer=layer)
            torch.testing.assert_close(raw_map, alone.raw_maps[0])


def test_a_given_box_is_explained_by_the_candidate_that_overlaps_it(planted, images):
    box = torch.tensor([[40.0, 4.0, 60.0, 40.0]])
    (found,) = explained(planted, images[:1], boxes=box)
    assert found.names == ("right",)
    assert torch.equal(found.boxes, box)
    dark = images.clone()
    dark[:, :, :, 32:] -= 2  # the detector misses what is on the right
    missed, _ = explained(planted, dark, boxes=[box.tolist(), np.zeros((0, 4))], labels=[[1], []], threshold=0.99)
    assert float(missed.scores) == pytest.approx(0.5)


def test_a_clipped_map_is_zero_outside_of_its_box(planted, images):
    (found,) = explained(planted, images[:1], boxes=[[4.0, 8.0, 20.0, 30.0]], labels="left")
    clipped = found.clipped()
    outside = torch.ones(48, 64, dtype=torch.bool)
    outside[8:30, 4:20] = False
    assert found.maps[0][outside].max() > 0
    assert clipped.maps[0][outside].max() == 0
    assert clipped.maps.max() == 1
    assert clipped.share_in_box == 1
    with pytest.raises(ValueError, match=r"to: expected 'box'.*no masks"):
        found.clipped("mask")


def test_pictures_and_files(planted, images, tmp_path):
    found = explained(planted, images)[0]
    files = found.save(tmp_path, image=images[0], name="street")
    assert sorted(path.name for path in files) == sorted(path.name for path in tmp_path.iterdir())
    told = json.loads((tmp_path / "street.json").read_text())
    assert [one["class"] for one in told] == list(found.names)
    assert np.array_equal(np.load(tmp_path / "street-2.npy"), found.maps[1].numpy())
    with Image.open(tmp_path / "street-1.png") as drawn:
        assert drawn.size == (64, 48)
        left, top = found.boxes[0, :2].int().tolist()
        assert drawn.getpixel((left, top + 20)) == (0, 0, 0)  # the box's edge
        assert drawn.getpixel((left + 1, top + 20)) == (255, 255, 255)
    with pytest.raises(FileExistsError):
        found.save(tmp_path, name="street")
    assert found.save(tmp_path, name="street", overwrite=True)


def test_the_model_is_left_as_it_was(planted, images):
    before = {name: value.clone() for name, value in planted.state_dict().items()}
    explained(planted, images)
    assert all(torch.equal(before[name], value) for name, value in planted.state_dict().items())
    assert all(parameter.grad is None for parameter in planted.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.modules())


class Headless(nn.Module):
    """Returns levels (B, C, h, w), of which nobody knows how boxes are coded."""

    def __init__(self, output):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.output = output

    def forward(self, images):
        return self.output(self.features(images))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda maps: [maps, maps], "list of 2.*coded.*give find="),
        (lambda maps: maps.flatten(2)[:, :, :6], r"one alone fits; got \(1, 4, 6\).*give find="),
        (lambda maps: maps.flatten(2).mT.repeat(1, 1, 2)[..., :6], r"one alone fits.*give find="),  # xyxy, score, class
        (lambda maps: maps.repeat(1, 2, 1, 1).flatten(2) * 100 - 5, r"scores in \[0, 1\].*give find="),
        (lambda maps: "boxes", "boxes and scores in its output; got str.*give find="),
    ],
)
def test_an_output_that_can_not_be_read_is_refused(output, message, images):
    with pytest.raises((TypeError, ValueError), match=message):
        explained(Headless(output), images[:1])


def test_a_callable_finds_what_no_one_else_can(images):
    def find(output):
        return [
            {"boxes": torch.tensor([[0.0, 0.0, 32.0, 48.0]]), "labels": torch.tensor([2]), "scores": one}
            for one in output
        ]

    model = Headless(lambda maps: maps[..., :8].mean(dim=(1, 2, 3))[:, None].sigmoid())
    found = explained(model, images, find=find, threshold=0.0)
    assert [one.names for one in found] == [("class 2",)] * 2
    assert all(one.maps[0, :, 34:].max() == 0 for one in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2}, r"threshold: expected a number in \[0, 1\]; got 2"),
        ({"top": 0}, "top: expected an int of at least 1; got 0"),
        ({"labels": "middle"}, "labels: no class is called 'middle'"),
        ({"labels": 2}, "labels: expected a class from 0 to 1; got 2"),
        ({"boxes": [[5, 5, 2, 9.0]]}, r"boxes: expected x1 < x2"),
        ({"boxes": torch.rand(3, 5)}, r"boxes: expected \(N, 4\)"),
        ({"boxes": [[1, 1, 9, 9.0]], "labels": [1, 0]}, "labels: expected one for each box"),
        ({"boxes": [[100, 100, 120, 120.0]]}, "boxes: expected boxes that a candidate overlaps"),
        ({"find": 3}, "find: expected a callable; got int"),
        ({"config": Config.two_level()}, "config: expected a configuration of one layer"),
        ({"target_layer": "none"}, "target_layer: the model has no layer 'none'"),
        ({"target_layer": ["features", "features"]}, "target_layer: expected different layers.*features twice"),
    ],
)
def test_what_can_not_be_meant_is_refused(planted, images, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        explain_detections(planted, images[:1], **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"images: expected shape \(B, C, H, W\).*image\[None\]"),
        ([], "images: expected at least one"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "images: expected a floating dtype; got torch.uint8"),
        ([torch.full((3, 8, 8), torch.nan)], "images: expected finite numbers; image 0"),
        (3, "images: expected a tensor"),
    ],
)
def test_images_that_can_not_be_meant_are_refused(planted, images, message):
    with pytest.raises((TypeError, ValueError), match=message):
        explain_detections(planted, images)


def test_images_of_different_sizes_are_explained_in_their_order():
    torch.manual_seed(0)
    model = Yolo().eval()
    images = [torch.rand(3, 64, 96), torch.rand(3, 96, 64), torch.rand(3, 64, 96)]
    together = explain_detections(model, images, threshold=0.0, top=2)
    for image, found in zip(images, together):
        (alone,) = explain_detections(model, image[None], threshold=0.0, top=2)
        assert found.size == tuple(image.shape[-2:])
        torch.testing.assert_close(found.maps, alone.maps, rtol=1e-3, atol=1e-4)
