"""Metrics of class activation maps: faithfulness, localisation, robustness, sanity, and statistics over images.

Torch in, torch out, on the device of the model; long work goes through the model in chunks within a memory budget and
reports its progress. Results are per image: means and intervals over images are for :mod:`.statistics`.
"""

from ..methods.completeness import Completeness
from .classes import ClassSensitivity, SignedRank, class_sensitivity, class_sensitivity_test
from .completeness import completeness_gap
from .faithfulness import ADCC, ConfidenceChange, Curve, adcc, confidence_change, deletion, insertion
from .localisation import best_iou, energy_pointing_game, grid_pointing_game, mosaic, pointing_game
from .patches import single_deletion
from .road import Road, road
from .robustness import gradient_noise_ssim, max_sensitivity, pixel_noise_ssim, ssim
from .sanity import Randomisation, cascading_randomisation, classifier_randomisation_ssim
from .scoring import Explainer
from .statistics import Interval, mean_interval, paired_difference

__all__ = [
    "ADCC",
    "ClassSensitivity",
    "Completeness",
    "ConfidenceChange",
    "Curve",
    "Explainer",
    "Interval",
    "Randomisation",
    "Road",
    "SignedRank",
    "adcc",
    "best_iou",
    "cascading_randomisation",
    "class_sensitivity",
    "class_sensitivity_test",
    "classifier_randomisation_ssim",
    "completeness_gap",
    "confidence_change",
    "deletion",
    "energy_pointing_game",
    "gradient_noise_ssim",
    "grid_pointing_game",
    "insertion",
    "max_sensitivity",
    "mean_interval",
    "mosaic",
    "paired_difference",
    "pixel_noise_ssim",
    "pointing_game",
    "road",
    "single_deletion",
    "ssim",
]
