"""Target layers: how they are named, found and chosen in a model, and how activations and gradients are read there."""

from .layers import Candidate, candidates
from .layouts import Layout
from .target_layer import Layer, TargetLayer, find

__all__ = ["Candidate", "Layer", "Layout", "TargetLayer", "candidates", "find"]
