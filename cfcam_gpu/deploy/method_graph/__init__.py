"""CF-CAM in ordinary torch operators on a whole batch, so that a runtime can play it.

Where the engines leave the device for SciPy or take an image at a time, everything here is a tensor operator with an
ONNX form. It runs eagerly, through ``torch.export`` and ``torch.onnx.export``.
"""

from .graph import MethodGraph, refuse
from .maps import is_empty, shown

__all__ = ["MethodGraph", "is_empty", "refuse", "shown"]
