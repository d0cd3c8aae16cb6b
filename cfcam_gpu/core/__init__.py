"""The method itself. `Config` names its choices; ``cluster_filter.py`` is the algorithm: read that file first."""

from .config import Config

__all__ = ["Config"]
