"""CF-CAM explanations of image models, computed where the model runs."""

from ._version import __version__
from .config import Config
from .explainer import CFCAM
from .explanation import Explanation
from .functional import cluster_filter_cam

__all__ = ["CFCAM", "Config", "Explanation", "__version__", "cluster_filter_cam"]
