"""Headless Chromium, to see what a page draws: Debian's, or the one that CFCAM_BROWSER names."""

import os
import shutil
from contextlib import contextmanager

from .needs import lacking, module

#: No sandbox, since CI runs as root; nothing that reaches for the network of its own accord.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium(*more):
    """The browser, started with `more` arguments, too.

    Where there is none the test is skipped, or failed where CFCAM_REQUIRE_BROWSER=1 asks for one.
    """
    path = os.environ.get("CFCAM_BROWSER") or shutil.which("chromium")
    if path is None:
        lacking("there is no chromium", "BROWSER")
    with module("playwright.sync_api", "BROWSER").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *more])
        try:
            yield browser
        finally:
            browser.close()
