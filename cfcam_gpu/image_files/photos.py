"""Photographs: found, read with Pillow, and prepared as a model wants them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .finding import Search, find, search, told
from .formats import SUFFIXES, TooLargeError, UnreadableError
from .preparation import Preparation
from .reading import Page, dimensions, first_page, quiet, read

__all__ = [
    "SUFFIXES",
    "Page",
    "Preparation",
    "Search",
    "TooLargeError",
    "UnreadableError",
    "dimensions",
    "find",
    "first_page",
    "quiet",
    "read",
    "samples",
    "search",
    "told",
]

_SAMPLES = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


def samples() -> list[Path]:
    """The photographs of the demonstration, which scikit-image and scikit-learn bring along.

    Raises
    ------
    FileNotFoundError
        If scikit-image is not installed, or has them no more.
    """
    paths = []
    for package, inside in _SAMPLES:
        spec = find_spec(package)
        # Found without importing the package, which takes long.
        path = Path(spec.origin).parent / inside if spec and spec.origin else None
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"the sample photograph {package}/{inside} is not installed; pip install 'cfcam-gpu[demo]'"
            )
        paths.append(path)
    return paths
