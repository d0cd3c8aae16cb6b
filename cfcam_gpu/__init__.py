"""CF-CAM explanations of image models, computed where the model runs."""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import methods
    from .cam import CAM
    from .config import Config
    from .explainer import CFCAM
    from .explanation import Explanation
    from .functional import cluster_filter_cam

__all__ = ["CAM", "CFCAM", "Config", "Explanation", "__version__", "cluster_filter_cam", "methods"]

_HOMES = {
    "CAM": "cam",
    "CFCAM": "explainer",
    "Config": "config",
    "Explanation": "explanation",
    "cluster_filter_cam": "functional",
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
