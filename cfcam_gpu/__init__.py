"""Class activation maps of PyTorch models, computed where the model runs."""

from typing import TYPE_CHECKING

from ._lazy import lazily
from ._version import __version__

if TYPE_CHECKING:
    from . import (
        core,
        deploy,
        detection,
        engines,
        explain,
        hooks,
        methods,
        metrics,
        photographs,
        pipelines,
        results,
        targets,
    )
    from .core import Config
    from .detection import explain_detections
    from .engines.execution import cluster_filter_cam
    from .explain import CAM, CFCAM, explain_point, explain_text
    from .hooks import layers
    from .results import Explanation, compare

__all__ = [
    "CAM",
    "CFCAM",
    "Config",
    "Explanation",
    "__version__",
    "cluster_filter_cam",
    "compare",
    "core",
    "deploy",
    "detection",
    "engines",
    "environment",
    "explain",
    "explain_detections",
    "explain_point",
    "explain_text",
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
    "compare": "results.figures",
    "explain_detections": "detection",
    "explain_point": "explain",
    "explain_text": "explain",
    "layers": "hooks.layers",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
