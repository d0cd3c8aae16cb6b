"""Class prototypes: heads for networks that bring none, each made of a part of the photographs, to explain the others.

Of every class with several photographs the first is in one fold, the others in the other; the head that is made of one
fold is for the other, so that no photograph is explained by a head that has seen it. (Composites of one cut-out object
are in different folds: what is recognised is often the same object before another background.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu.evaluation.data import Photograph
from cfcam_gpu.image_files.photos import Preparation

#: What cosines are multiplied by, of all networks: what the three that have such heads classify rightly of the
#: photographs for choosing has a mean probability of nearly 0.8 then, which can rise and fall.
SCALE = 12.0
#: Images that pass the network at once.
BATCH = 16


class Prototypes(nn.Module):
    """Logits (B, K) of classes: how like an image's features are to the mean features of each class's photographs.

    Parameters
    ----------
    features : torch.nn.Module
        Of images (B, 3, H, W) it gives (B, C), or (B, C, h, w), which are averaged over the positions.
    images : (N, 3, H, W) floating tensor
        Prepared as it wants them. Each counts with its mirror image.
    classes : sequence of N int
        Of each image its class, 0 to K - 1; all are there.
    axes : int, optional
        So many principal axes of the features are whitened, and the others left out: where classes hide in small ones.
    """

    def __init__(
        self, features: nn.Module, images: torch.Tensor, classes: Sequence[int], axes: int | None = None
    ) -> None:
        super().__init__()
        self.features = features
        with torch.no_grad():
            vectors = torch.cat([self.vectors(part) for part in torch.cat([images, images.flip(-1)]).split(BATCH)])
        members = functional.one_hot(torch.tensor([*classes, *classes])).float()
        # Less what all have in common, by which any two photographs are alike.
        self.register_buffer("mean", vectors.mean(dim=0))
        _, deviations, directions = torch.linalg.svd(vectors - self.mean, full_matrices=False)
        self.register_buffer("whitening", None if axes is None else directions[:axes].T / deviations[:axes])
        prototypes = functional.normalize(members.T @ self.apart(vectors))
        # A layer, so that the classifier can be randomised as others are.
        self.head = nn.Linear(prototypes.shape[1], len(prototypes), bias=False)
        self.head.weight.data = SCALE * prototypes

    def apart(self, vectors: torch.Tensor) -> torch.Tensor:
        """What tells feature vectors (B, C) apart: (B, C), or whitened (B, axes); of length 1."""
        vectors = vectors - self.mean
        return functional.normalize(vectors if self.whitening is None else vectors @ self.whitening)

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) features of length 1."""
        found = self.features(images)
        return functional.normalize(found.mean(dim=(2, 3)) if found.ndim == 4 else found)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.apart(self.vectors(images)))
        return logits


class Fold(NamedTuple):
    """A head and the photographs that it has not seen; their class indices are places among its logits."""

    model: Prototypes
    unseen: list[Photograph]


def folds(
    features: nn.Module, preparation: Preparation, photographs: Sequence[Photograph], axes: int | None = None
) -> Iterator[Fold]:
    """Two heads on one network, which is put into eval mode; what has a class for itself is left out."""
    by_class = defaultdict(list)
    for one in photographs:
        by_class[one.class_index].append(one)
    several = [by_class[index] for index in sorted(by_class) if len(by_class[index]) > 1]
    placed = [[replace(one, class_index=place) for one in some] for place, some in enumerate(several)]
    first, others = [some[0] for some in placed], [one for some in placed for one in some[1:]]
    features = features.eval()
    for seen, unseen in ((first, others), (others, first)):
        images = torch.stack([one.load(preparation).image for one in seen])
        yield Fold(Prototypes(features, images, [one.class_index for one in seen], axes).eval(), unseen)


def classified_rightly(fold: Fold, preparation: Preparation) -> list[bool]:
    """Of each photograph that a head has not seen, whether its class has the largest logit."""
    images = torch.stack([one.load(preparation).image for one in fold.unseen])
    with torch.no_grad():
        predicted = torch.cat([fold.model(part).argmax(dim=1) for part in images.split(BATCH)])
    return [int(found) == one.class_index for found, one in zip(predicted, fold.unseen)]
