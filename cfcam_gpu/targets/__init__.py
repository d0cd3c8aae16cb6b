"""What is explained: class indices, given or predicted, or any differentiable score of an image's output.

A callable target gets the logits of one image and returns a scalar tensor that depends on them. One that does not
depend on them is refused; one whose gradient is zero has an empty map. If the model has no logits, or the callable has
an attribute ``whole_output = True``, it gets the image's part of the model's whole output.

The classes here are ready-made targets, and :class:`WholeOutput` is for a function of your own. ``Config.contrast``,
which compares a class with all others in the two-level default, applies to class indices only.
"""

# Those that are imported under their own names are for this package, and not public.
from .names import ClassNames as ClassNames
from .names import names_of
from .references import Detection, ImageText, Similarity
from .request import Objective as Objective
from .request import Request as Request
from .request import Score, Target
from .request import check_range as check_range
from .request import class_indices as class_indices
from .request import logits_for as logits_for
from .request import name_of as name_of
from .request import pinned as pinned
from .request import read as read
from .request import resolve as resolve
from .scores import Binary, Contrast, Label, Probability, Segment, Toward, Value, WholeOutput

__all__ = [
    "Binary",
    "Contrast",
    "Detection",
    "ImageText",
    "Label",
    "Probability",
    "Score",
    "Segment",
    "Similarity",
    "Target",
    "Toward",
    "Value",
    "WholeOutput",
    "names_of",
]
