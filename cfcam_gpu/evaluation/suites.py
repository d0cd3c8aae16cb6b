"""What each suite measures, image by image.

One image at a time, with noise seeded by the image's place in its folder: an image's numbers depend neither on the
batch that it came in nor on the other images. All in percent, but max_sensitivity, which is a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import nn

from .. import metrics
from ..metrics import Curve
from ..metrics.robustness import add_gradient_noise
from .candidates import Candidate
from .data import Album, Grid, Photograph, Sample
from .measures import RESULTS, Better

#: Standard deviation of noise in the gradients, in theirs.
GRADIENT_NOISE = 2.0
#: Standard deviation of noise in the pixels, as a share of the image's range.
PIXEL_NOISE = 0.1
#: Half-width of the cube of small changes, as a share of the image's range, and how many are drawn.
SENSITIVITY_RADIUS = 0.02
SENSITIVITY_SAMPLES = 10
#: Seeds of ROAD that one image uses up: one for each of its 9 percentages, both ways.
ROAD_SEEDS = 18

#: Of the numbers above those that a reader of results needs.
CONSTANTS = {
    "gradient_noise": GRADIENT_NOISE,
    "pixel_noise": PIXEL_NOISE,
    "sensitivity_radius": SENSITIVITY_RADIUS,
    "sensitivity_samples": SENSITIVITY_SAMPLES,
}

Subject: TypeAlias = Photograph | Grid


@dataclass(frozen=True)
class Case:
    """One image and one candidate. ``maps`` (T, H, W) are None for a measure that makes its own."""

    model: nn.Module
    candidate: Candidate
    sample: Sample
    maps: torch.Tensor | None
    seed: int
    place: int
    step: int

    @property
    def images(self) -> torch.Tensor:
        """(1, 3, S, S)."""
        return self.sample.image[None]

    @property
    def given(self) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What metrics of faithfulness take: model, images, maps and classes."""
        assert self.maps is not None
        return self.model, self.images, self.maps, self.sample.classes


def _photographs(album: Album) -> Sequence[Subject]:
    return album.photographs


@dataclass(frozen=True)
class Measure:
    """Metrics that come from the same forwards, and what they are measured on.

    Parameters
    ----------
    metrics : mapping of str
        What `run` returns, in its order, and whether high or low is better.
    run : callable
        Gets a :class:`Case`; returns for each metric a (1,) tensor, or the curve of one image that it is the area of.
    subjects : callable
        The images of an album that it is measured on.
    needs_maps : bool
    needs_render : bool
        Whether a candidate must be able to take gradients that are not the model's own.
    """

    metrics: Mapping[str, Better]
    run: Callable[[Case], Sequence[torch.Tensor | Curve]]
    subjects: Callable[[Album], Sequence[Subject]] = field(default=_photographs)
    needs_maps: bool = True
    needs_render: bool = False


def _drop(case: Case) -> Sequence[torch.Tensor]:
    return metrics.confidence_change(*case.given)


def _insertion(case: Case) -> Sequence[Curve]:
    return (_percent(metrics.insertion(*case.given, step=case.step)),)


def _deletion(case: Case) -> Sequence[Curve]:
    return (_percent(metrics.deletion(*case.given, step=case.step)),)


def _percent(curve: Curve) -> Curve:
    return curve._replace(auc=100 * curve.auc, scores=100 * curve.scores)


def _adcc(case: Case) -> Sequence[torch.Tensor]:
    model, *rest = case.given
    found = metrics.adcc(model, case.candidate.explainer(model), *rest)
    return [100 * value for value in (found.adcc, found.coherency, found.complexity)]


def _road(case: Case) -> Sequence[torch.Tensor]:
    return (100 * metrics.road(*case.given, seed=case.seed + ROAD_SEEDS * case.place).score,)


def _single_deletion(case: Case) -> Sequence[torch.Tensor]:
    return (100 * metrics.single_deletion(*case.given),)


def _with_masks(album: Album) -> Sequence[Subject]:
    return [one for one in album.photographs if one.mask is not None]


def _on_mask(metric: Callable[..., torch.Tensor], case: Case) -> Sequence[torch.Tensor]:
    assert case.maps is not None
    assert case.sample.mask is not None
    return (100 * metric(case.maps, case.sample.mask[None], spatial_dims=len(case.sample.size)),)


def _mosaics(n: int, album: Album) -> Sequence[Subject]:
    return [grid for grid in album.grids if grid.n == n]


def _on_mosaic(n: int, case: Case) -> Sequence[torch.Tensor]:
    assert case.maps is not None
    # The mosaic is what was drawn, so it is what is resampled: its cells are no images of their own.
    return (100 * metrics.grid_pointing_game(case.maps[None], n).mean(dim=1),)


def _gradient_noise(case: Case) -> Sequence[torch.Tensor]:
    render = case.candidate.render
    assert render is not None
    activations, gradients = case.candidate.captured(case.model, case.images, case.sample.classes[None])
    noisy = add_gradient_noise(gradients, std=GRADIENT_NOISE, seed=case.seed + case.place)
    clean, changed = (render(activations, given, case.sample.size)[:, 0] for given in (gradients, noisy))
    return (100 * metrics.ssim(clean, changed),)


def _pixel_noise(case: Case) -> Sequence[torch.Tensor]:
    explainer, seed = case.candidate.explainer(case.model), case.seed + case.place
    found = metrics.pixel_noise_ssim(explainer, case.images, case.sample.classes, std=PIXEL_NOISE, seed=seed)
    return (100 * found,)


def _max_sensitivity(case: Case) -> Sequence[torch.Tensor]:
    return (
        metrics.max_sensitivity(
            case.candidate.explainer(case.model),
            case.images,
            case.sample.classes,
            radius=SENSITIVITY_RADIUS,
            samples=SENSITIVITY_SAMPLES,
            seed=case.seed + case.place,
        ),
    )


def _classifier(case: Case) -> Sequence[torch.Tensor]:
    explainer = case.candidate.explainer
    # The seed makes the new classifier: one and the same for every image and method.
    found = metrics.classifier_randomisation_ssim(
        case.model, explainer, case.images, case.sample.classes, seed=case.seed
    )
    return (100 * found,)


def _cascade(case: Case) -> Sequence[torch.Tensor]:
    found = metrics.cascading_randomisation(
        case.model, case.candidate.explainer, case.images, case.sample.classes, seed=case.seed
    )
    return 100 * found.correlation.mean(dim=0), 100 * found.correlation[-1]


def _class_sensitivity(case: Case) -> Sequence[torch.Tensor]:
    found = metrics.class_sensitivity(case.model, case.candidate.explainer(case.model), case.images)
    # An empty map is no top to agree with: it knows nothing of its class, as one that is the other class's.
    return (100 * found.agreement.nan_to_num(nan=1.0),)


#: How each measure is taken, by its name; makes one of the names of its results.
_TAKEN: Mapping[str, Callable[[Mapping[str, Better]], Measure]] = {
    "drop": partial(Measure, run=_drop),
    "insertion": partial(Measure, run=_insertion),
    "deletion": partial(Measure, run=_deletion),
    "adcc": partial(Measure, run=_adcc),
    "road": partial(Measure, run=_road),
    "single-deletion": partial(Measure, run=_single_deletion),
    "energy": partial(Measure, run=partial(_on_mask, metrics.energy_pointing_game), subjects=_with_masks),
    "pointing": partial(Measure, run=partial(_on_mask, metrics.pointing_game), subjects=_with_masks),
    "iou": partial(Measure, run=partial(_on_mask, metrics.best_iou), subjects=_with_masks),
    "grid2": partial(Measure, run=partial(_on_mosaic, 2), subjects=partial(_mosaics, 2)),
    "grid3": partial(Measure, run=partial(_on_mosaic, 3), subjects=partial(_mosaics, 3)),
    "gradient-noise": partial(Measure, run=_gradient_noise, needs_maps=False, needs_render=True),
    "pixel-noise": partial(Measure, run=_pixel_noise, needs_maps=False),
    "sensitivity": partial(Measure, run=_max_sensitivity, needs_maps=False),
    "classifier": partial(Measure, run=_classifier, needs_maps=False),
    "class-sensitivity": partial(Measure, run=_class_sensitivity, needs_maps=False),
    "cascade": partial(Measure, run=_cascade, needs_maps=False),
}

#: Suites by name, and their measures by the name that ``--metrics`` takes: those of
#: :data:`cfcam_gpu.evaluation.measures.RESULTS`, from which help has them, too.
SUITES: Mapping[str, Mapping[str, Measure]] = MappingProxyType(
    {suite: {name: _TAKEN[name](results) for name, results in found.items()} for suite, found in RESULTS.items()}
)
