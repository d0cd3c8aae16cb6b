"""Detectors: the objects that they find, each with its map. :func:`explain_detections` finds and explains."""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from .detections import Detections
    from .explaining import explain_detections

__all__ = ["Detections", "explain_detections"]

# They import torch, which `cfcam-gpu --help` needs not.
__getattr__, __dir__ = lazily(__name__, {"Detections": "detections", "explain_detections": "explaining"})
