"""What is explained: class indices, given or predicted, or any score of an image's output.

A callable gets the row of logits of one image and returns a scalar tensor that depends on them: one that does not is
refused, and one whose gradient is zero has an empty map. Where a model has no logits, or the callable says so by an
attribute ``whole_output = True``, it gets the image's part of the whole output, see
:func:`cfcam_gpu.targets.outputs.samples`.
Ready ones are here, too: :class:`Probability`, :class:`Contrast`, :class:`Binary`,
:class:`Label`, :class:`Value`, :class:`Toward`, :class:`Segment`, :class:`Detection`, :class:`Similarity`,
:class:`ImageText`, and :class:`WholeOutput` around a function of one's own. ``Config.contrast``, which compares a class
with its rivals in the two-level default, is for class indices alone: callables are taken as they are.
"""

from .references import Detection, ImageText, Similarity
from .request import (
    Objective,
    Request,
    Score,
    Target,
    check_range,
    class_indices,
    logits_for,
    name_of,
    pinned,
    read,
    resolve,
)
from .scores import Binary, Contrast, Label, Probability, Segment, Toward, Value, WholeOutput

__all__ = [
    "Binary",
    "Contrast",
    "Detection",
    "ImageText",
    "Label",
    "Objective",
    "Probability",
    "Request",
    "Score",
    "Segment",
    "Similarity",
    "Target",
    "Toward",
    "Value",
    "WholeOutput",
    "check_range",
    "class_indices",
    "logits_for",
    "name_of",
    "pinned",
    "read",
    "resolve",
]
