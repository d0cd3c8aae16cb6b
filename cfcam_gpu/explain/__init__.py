"""The explainers: `CFCAM`, `CAM`, and the CUDA graph of a call; `Bag` for models of several images with one answer.

:data:`TRANSFORMS` has the image transformations that an explainer can average over, by name.
"""

from .bag import Bag
from .cam import CAM
from .cfcam import CFCAM
from .cuda_graph import GraphedCFCAM, GraphedExplanation
from .views import TRANSFORMS

__all__ = ["CAM", "CFCAM", "TRANSFORMS", "Bag", "GraphedCFCAM", "GraphedExplanation"]
