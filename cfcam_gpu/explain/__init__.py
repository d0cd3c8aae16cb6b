"""The explainers: `CFCAM`, `CAM`, and the CUDA graph of a call; `Bag` for models of several images with one answer.

:func:`explain_text` explains models of images and texts, of which :class:`ZeroShot` makes a classifier, and
:func:`explain_point` models that segment what is pointed at.
:data:`TRANSFORMS` has the image transformations that an explainer can average over, by name.
"""

from .bag import Bag
from .cam import CAM
from .cfcam import CFCAM
from .cuda_graph import GraphedCFCAM, GraphedExplanation
from .points import PointExplanation, explain_point
from .texts import TextExplanation, explain_text
from .views import TRANSFORMS
from .zero_shot import ZeroShot

__all__ = [
    "CAM",
    "CFCAM",
    "TRANSFORMS",
    "Bag",
    "GraphedCFCAM",
    "GraphedExplanation",
    "PointExplanation",
    "TextExplanation",
    "ZeroShot",
    "explain_point",
    "explain_text",
]
