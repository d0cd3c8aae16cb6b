"""What an explainer returns: explanations, their components, overlays and files."""

from typing import TYPE_CHECKING

from .._lazy import lazily
from .explanation import Explanation
from .overlays import overlay
from .saving import save

if TYPE_CHECKING:
    from .components import Component, decompose
    from .trust import Trust

__all__ = ["Component", "Explanation", "Trust", "decompose", "overlay", "save"]

# These import SciPy and scikit-learn, or all methods.
__getattr__, __dir__ = lazily(__name__, {"Component": "components", "Trust": "trust", "decompose": "components"})
