"""A rectangle of a slide at any scale."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Region:
    """A rectangle of the slide that is reduced by `scale`: whole pixels there, wherever that is on level 0.

    Parameters
    ----------
    x, y : int
        The left upper corner, in pixels of the reduced slide. Negative ones lie outside.
    width, height : int
        In pixels of the reduced slide, and of the array that is read.
    scale : Fraction
        Pixels of level 0 along the side of one; at least 1.
    """

    x: int
    y: int
    width: int
    height: int
    scale: Fraction = Fraction(1)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower border in pixels of level 0."""
        left, upper = self.x * self.scale, self.y * self.scale
        right, lower = (self.x + self.width) * self.scale, (self.y + self.height) * self.scale
        return float(left), float(upper), float(right), float(lower)
