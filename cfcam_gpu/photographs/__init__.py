"""Photographs and models by name, as the command line uses them.

`load` builds a model together with its preprocessing, and `read` opens a photograph.
"""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from .models import Model, load
    from .photos import Preparation, UnreadableError, read, samples

__all__ = ["Model", "Preparation", "UnreadableError", "load", "read", "samples"]

_HOMES = {
    "Model": "models",
    "Preparation": "photos",
    "UnreadableError": "photos",
    "load": "models",
    "read": "photos",
    "samples": "photos",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
