"""A model and its explanation as one file, for runtimes without this library, and such files played here.

:func:`export` writes ONNX, for ONNX Runtime, TensorRT and what else reads it, or a package of AOTInductor; :func:`load`
makes an explainer of either.
"""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from . import triton
    from .description import Check, DescribedLayer, Description
    from .exporting import export
    from .loading import Deployed, describe, load

__all__ = ["Check", "Deployed", "DescribedLayer", "Description", "describe", "export", "load", "triton"]

# Those who play a file don't wait for what traces a model.
_HOMES = {
    "Check": "description",
    "Deployed": "loading",
    "DescribedLayer": "description",
    "Description": "description",
    "describe": "loading",
    "export": "exporting",
    "load": "loading",
    "triton": "triton",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
