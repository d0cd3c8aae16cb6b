"""Operators of a network and of its backward, written so that ONNX has them."""

from __future__ import annotations

from .missing import backward_missing, check
from .plain import PlainForward
from .simplifying import is_functional, simplify
from .table import decompositions

__all__ = ["PlainForward", "backward_missing", "check", "decompositions", "is_functional", "simplify"]
