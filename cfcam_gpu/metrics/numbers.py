"""Whether an argument is a number, asked before it is compared with its bounds."""

from __future__ import annotations

import numbers


def is_number(value: object) -> bool:
    """Whether it is a real number, Python's or NumPy's, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
