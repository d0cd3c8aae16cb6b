"""CF-CAM explanations of image models, computed where the model runs."""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import methods
    from .core.config import Config
    from .engines.execution import cluster_filter_cam
    from .explain.cam import CAM
    from .explain.cfcam import CFCAM
    from .results.explanation import Explanation

__all__ = ["CAM", "CFCAM", "Config", "Explanation", "__version__", "cluster_filter_cam", "methods"]

_HOMES = {
    "CAM": "explain.cam",
    "CFCAM": "explain.cfcam",
    "Config": "core.config",
    "Explanation": "results.explanation",
    "cluster_filter_cam": "engines.execution",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and `cfcam-gpu --help` needs none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name not in _HOMES:
        return import_module(f".{name}", __name__)
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
