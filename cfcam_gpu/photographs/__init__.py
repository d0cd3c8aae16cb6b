"""Photographs and models by name, as the command line uses them.

`load` builds a model together with its preprocessing, and `read` opens a photograph.
"""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from ..image_files.photos import Preparation, UnreadableError, read, samples
    from ..named_models.models import Model, load

__all__ = ["Model", "Preparation", "UnreadableError", "load", "read", "samples"]

_HOMES = {
    "Model": ".named_models.models",
    "Preparation": ".image_files.photos",
    "UnreadableError": ".image_files.photos",
    "load": ".named_models.models",
    "read": ".image_files.photos",
    "samples": ".image_files.photos",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
