"""The Python blocks of a page of the documentation, to be run in the order of the page.

A block behind ``<!-- needs NAME -->`` runs where NAME is at hand: ``a GPU``, ``a Ray cluster`` that RAY_ADDRESS names,
or a module, which CFCAM_REQUIRE_PEERS=1 takes for granted.
"""

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .conftest import why_no_gpu

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "llms.txt", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?:<!-- needs (?P<needs>.+?) -->\s*)?^```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code, the line of the page before it, the nearest heading above it, and what it needs."""

    page: Path
    code: str
    line: int
    heading: str
    needs: str | None

    def run(self, names):
        """Execute in the namespace `names`, if what it needs is at hand; a traceback has the page's lines."""
        code = compile("\n" * self.line + self.code, self.page, "exec")
        if self.missing() is None:
            exec(code, names)

    def missing(self):
        """Why it can't run here, or None."""
        if self.needs is None:
            return None
        if self.needs == "a GPU":
            return why_no_gpu()
        if self.needs == "a Ray cluster":
            return None if "RAY_ADDRESS" in os.environ else "RAY_ADDRESS names none"
        if os.environ.get("CFCAM_REQUIRE_PEERS") == "1":
            return None
        try:
            importlib.import_module(self.needs)
        except ImportError as error:
            return str(error)
        return None


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        above = text[: match.start("code")]
        headings = re.findall(
            r"^#+ (.*)$", re.sub(r"^```.*?^```", "", above, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
        )
        found.append(Block(page, match["code"], above.count("\n"), headings[-1], match["needs"]))
    return found
