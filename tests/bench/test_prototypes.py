"""Heads of class prototypes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench import prototypes
from cfcam_gpu.evaluation.data import Photograph
from cfcam_gpu.image_files.photos import Preparation

PREPARATION = Preparation(8, 8, Image.Resampling.BILINEAR, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()).eval()


@pytest.mark.parametrize("axes", [None, 3])
def test_logits_are_scaled_cosines_to_prototypes(features, axes):
    torch.manual_seed(1)
    images, classes = torch.randn(5, 3, 8, 8), [0, 0, 1, 2, 2]
    model = prototypes.Prototypes(features, images, classes, axes).eval()
    asked = torch.randn(2, 3, 8, 8)

    def vector(image):
        found = features(image[None])[0].detach().double().mean(dim=(1, 2)).numpy()
        return found / np.linalg.norm(found)

    both = [(vector(one), index) for image, index in zip(images, classes) for one in (image, image.flip(-1))]
    mean = sum(one for one, _ in both) / len(both)
    scatter = sum(np.outer(one - mean, one - mean) for one, _ in both)
    values, axes_of = np.linalg.eigh(scatter)

    def apart(found):
        found = found - mean
        if axes is not None:  # in the axes of the largest spread, over it
            found = (found @ axes_of / np.sqrt(values))[-axes:]
        return found / np.linalg.norm(found)

    for image, logits in zip(asked, model(asked).tolist()):
        for k, logit in enumerate(logits):
            prototype = sum(apart(one) for one, index in both if index == k)
            cosine = apart(vector(image)) @ prototype / np.linalg.norm(prototype)
            assert logit == pytest.approx(prototypes.SCALE * cosine, abs=1e-3)


def test_features_without_positions_are_taken_as_they_are():
    torch.manual_seed(1)
    features = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert prototypes.Prototypes(features, torch.randn(3, 3, 8, 8), [0, 1, 2])(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_no_photograph_is_explained_by_a_head_that_has_seen_it(features, tmp_path):
    photographs = []
    for place, index in enumerate([7, 7, 7, 9, 11, 11]):
        path = tmp_path / f"{place}.png"
        Image.fromarray(np.random.default_rng(place).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        photographs.append(Photograph(path.name, path, None, index, place))
    folds = list(prototypes.folds(features, PREPARATION, photographs))
    unseen = [[(one.name, one.class_index) for one in fold.unseen] for fold in folds]
    assert unseen == [[("1.png", 0), ("2.png", 0), ("5.png", 1)], [("0.png", 0), ("4.png", 1)]]
    # Each head is made of exactly what the other has not seen: its own photographs are what it recognises best.
    for fold, other in zip(folds, reversed(folds)):
        images = torch.stack([one.load(PREPARATION).image for one in other.unseen])
        wanted = prototypes.Prototypes(features, images, [one.class_index for one in other.unseen])
        assert torch.equal(fold.model.head.weight, wanted.head.weight)
        right = prototypes.classified_rightly(fold, PREPARATION)
        logits = fold.model(torch.stack([one.load(PREPARATION).image for one in fold.unseen]))
        assert right == [int(row.argmax()) == one.class_index for row, one in zip(logits, fold.unseen)]
