"""Class activation maps of PyTorch models, computed where the model runs."""

from typing import TYPE_CHECKING

from ._lazy import lazily
from ._version import __version__

if TYPE_CHECKING:
    from . import core, deploy, engines, explain, hooks, methods, metrics, photographs, pipelines, results, targets
    from .core import Config
    from .engines.execution import cluster_filter_cam
    from .explain import CAM, CFCAM
    from .hooks import layers
    from .results import Explanation

__all__ = [
    "CAM",
    "CFCAM",
    "Config",
    "Explanation",
    "__version__",
    "cluster_filter_cam",
    "core",
    "deploy",
    "engines",
    "environment",
    "explain",
    "hooks",
    "layers",
    "methods",
    "metrics",
    "photographs",
    "pipelines",
    "results",
    "targets",
]

_HOMES = {name: name for name in __all__} | {
    "CAM": "explain",
    "CFCAM": "explain",
    "Config": "core",
    "Explanation": "results",
    "cluster_filter_cam": "engines.execution",
    "layers": "hooks.layers",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
