"""llms.txt of the repository's root (llmstxt.org), served by the site with links to its pages."""

import re
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "llms.txt"


def on_post_build(config: Any, **_: Any) -> None:
    """Write it beside the pages."""
    pages = re.sub(r"\(docs/(.+?)\.md\)", _address, SOURCE.read_text(encoding="utf-8"))
    Path(config.site_dir, "llms.txt").write_text(pages, encoding="utf-8")


def _address(link: re.Match[str]) -> str:
    page = link[1].removesuffix("index")
    return f"({page.rstrip('/') or '.'}/)"
