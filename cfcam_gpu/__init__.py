"""CF-CAM explanations of image models, computed where the model runs."""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .config import Config
    from .explainer import CFCAM
    from .explanation import Explanation
    from .functional import cluster_filter_cam

__all__ = ["CFCAM", "Config", "Explanation", "__version__", "cluster_filter_cam"]

_HOMES = {
    "CFCAM": "explainer",
    "Config": "config",
    "Explanation": "explanation",
    "cluster_filter_cam": "functional",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and `cfcam-gpu --help` needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
