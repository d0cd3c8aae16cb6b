"""What an explainer returns: explanations, their components, overlays and files."""

from typing import TYPE_CHECKING

from .._lazy import lazily
from .explanation import Explanation
from .overlays import overlay
from .saving import save

if TYPE_CHECKING:
    from .components import Component, decompose
    from .evidence import save_evidence
    from .figures import compare
    from .trust import Trust

__all__ = ["Component", "Explanation", "Trust", "compare", "decompose", "overlay", "save", "save_evidence"]

# These import SciPy and scikit-learn, all methods, or matplotlib's figures.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "Component": "components",
        "Trust": "trust",
        "compare": "figures",
        "decompose": "components",
        "save_evidence": "evidence",
    },
)
