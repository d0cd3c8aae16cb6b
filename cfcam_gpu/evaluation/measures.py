"""The names of suites, of their measures, and of what each measure gives; importable without torch, for help."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

Better: TypeAlias = Literal["high", "low"]

#: Suites by name; their measures by the name that ``--metrics`` takes; and what each gives, in its order, and whether
#: high or low is better.
RESULTS: Mapping[str, Mapping[str, Mapping[str, Better]]] = MappingProxyType(
    {
        "faithfulness": {
            "drop": {"average_drop": "low", "average_increase": "high", "average_gain": "high"},
            "insertion": {"insertion_auc": "high"},
            "deletion": {"deletion_auc": "low"},
            "adcc": {"adcc": "high", "coherency": "high", "complexity": "low"},
            "road": {"road": "high"},
            "single-deletion": {"single_deletion": "high"},
        },
        "localisation": {
            "energy": {"energy_pointing_game": "high"},
            "pointing": {"pointing_game": "high"},
            "iou": {"best_iou": "high"},
            "grid2": {"grid_2x2": "high"},
            "grid3": {"grid_3x3": "high"},
        },
        "robustness": {
            "gradient-noise": {"gradient_noise_ssim": "high"},
            "pixel-noise": {"pixel_noise_ssim": "high"},
            "sensitivity": {"max_sensitivity": "low"},
        },
        "sanity": {
            "classifier": {"classifier_randomisation_ssim": "low"},
            "class-sensitivity": {"class_agreement": "low"},
            "cascade": {"cascade_correlation_mean": "low", "cascade_correlation_last": "low"},
        },
    }
)

#: The measures that are taken only where they are named: they take long.
ON_REQUEST = frozenset({"cascade"})


def told() -> str:
    """All measures, suite by suite, each with what it gives in brackets where that has another name."""
    return "; ".join(f"of {suite} {', '.join(map(_told, found, found.values()))}" for suite, found in RESULTS.items())


def _told(name: str, given: Mapping[str, Better]) -> str:
    return name if list(given) == [name] else f"{name} ({', '.join(given)})"
