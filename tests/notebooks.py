"""Notebooks run as a notebook runs them: one cell after the other, and what ends a cell shows itself."""

import ast
import json
from typing import Any


def run(path, names: dict[str, Any]) -> list[Any]:
    """Execute the code of a notebook in the namespace `names`; what the cells end with, None where nothing is."""
    shown = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]), f"{path.name}, cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {number}", "exec"), names)
        value = None
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), names)
            displayed(value)
        shown.append(value)
    return shown


def displayed(value: Any) -> str | bytes:
    """What a notebook shows of it."""
    for name in ("_repr_html_", "_repr_png_"):
        if (show := getattr(value, name, None)) is not None and (found := show()) is not None:
            return found
    return repr(value)
