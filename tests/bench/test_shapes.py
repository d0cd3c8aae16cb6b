"""Shapes over noise: that the masks are exact, the networks repeatable, and the metrics what they say."""

import torch

from bench import shapes


def test_pictures_differ_in_their_objects_alone():
    pictures = shapes.draw(40, seed=3)
    changed = (pictures.images != pictures.without).any(dim=1)
    assert torch.equal(changed, pictures.masks[:, 0])
    changed = (pictures.images != pictures.undistracted).any(dim=1)
    assert torch.equal(changed, pictures.distractors)
    assert not (pictures.masks[:, 0] & pictures.distractors).any()
    # Red for the first four classes, blue for the others.
    sums = (pictures.images * pictures.masks).sum(dim=(2, 3))
    assert torch.equal(sums.argmax(dim=1), torch.where(pictures.classes[:, 0] < 4, 0, 2))
    again = shapes.draw(40, seed=3)
    assert all(torch.equal(one, other) for one, other in zip(pictures, again, strict=True))


def test_two_objects_are_of_two_classes_and_apart():
    pictures = shapes.draw(40, seed=4, objects=2)
    assert (pictures.classes[:, 0] != pictures.classes[:, 1]).all()
    assert not (pictures.masks[:, 0] & pictures.masks[:, 1]).any()
    assert pictures.masks.flatten(2).any(dim=2).all()


def test_a_network_is_trained_once_and_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "BATCH", 4)
    monkeypatch.setitem(shapes.NETWORKS, "cnn", (shapes.cnn, 2, 3e-3))
    before = torch.get_rng_state()
    first = shapes.load("cnn", tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    again = shapes.train("cnn")
    assert not first.training
    weights, others = first.state_dict(), again.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    monkeypatch.setattr(shapes, "train", None)
    shapes.load("cnn", tmp_path)


def test_a_map_that_is_the_mask_is_perfect():
    single, double = shapes.draw(6, seed=5), shapes.draw(6, seed=6, objects=2)
    known = {image.sum().item(): masks.float() for part in (single, double) for image, masks in zip(part[0], part[2])}

    def explain(images, classes):
        return torch.stack([known[image.sum().item()] for image in images])

    model = shapes.cnn().eval()
    found = shapes.of_method(model, explain, single, double)
    assert set(found) == set(shapes.MEASURED)
    for metric in ("energy_pointing_game", "pointing_game", "best_iou", "two_objects"):
        assert (found[metric] == 100).all()
    assert (found["distractor_energy"] == 0).all()
    assert len(found["two_objects"]) == 12

    def other(images, classes):
        return explain(images, classes).flip(1)

    assert (shapes.of_method(model, other, single, double)["two_objects"] == 0).all()


def test_transformers_of_both_heads_run():
    for name in ("vit", "vit-mean"):
        model = shapes.NETWORKS[name][0]().eval()
        assert model(shapes.draw(2, seed=0).images).shape == (2, shapes.CLASSES)
        assert sum(parameter.numel() for parameter in model.parameters()) < 300_000
