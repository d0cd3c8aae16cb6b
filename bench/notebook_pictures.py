"""The pictures of docs/notebooks.md: what docs/notebook.ipynb shows.

    python -m bench.notebook_pictures docs

Needs the extra `demo`, and Chromium for how a result shows itself.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import ARGUMENTS
from tests.notebooks import run

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="a folder for notebook.png and methods.png")
    out = parser.parse_args().out.resolve()
    names: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run(NOTEBOOK, names)
    drawn = io.BytesIO()
    names["figure"].savefig(drawn, format="png", dpi=110)
    Image.open(drawn).convert("RGB").save(out / "methods.png", optimize=True)
    path = os.environ.get("CFCAM_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 800, "height": 500})
        page.set_content(
            "<body style='margin:0;padding:12px;font:14px sans-serif;background:#fff;width:max-content'>"
            f"<div style='max-width:776px'>{names['result']._repr_html_()}</div></body>"
        )
        page.locator("body").screenshot(path=out / "notebook.png")
        browser.close()


if __name__ == "__main__":
    main()
