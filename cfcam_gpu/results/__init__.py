"""What an explainer returns: explanations, their components, overlays and files."""

from typing import TYPE_CHECKING

from .._lazy import lazily
from .explanation import Explanation
from .overlays import overlay
from .saving import save

if TYPE_CHECKING:
    from .components import Component, decompose

__all__ = ["Component", "Explanation", "decompose", "overlay", "save"]

# These import SciPy and scikit-learn.
__getattr__, __dir__ = lazily(__name__, {"Component": "components", "decompose": "components"})
