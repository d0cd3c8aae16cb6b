"""What a machine may lack: a GPU, a browser, compilers, and the libraries that ours is checked against."""

import importlib
import os

import pytest


def lacking(reason, what, *, default=None):
    """End a test that can't run here: skipped, or failed where CFCAM_REQUIRE_<what>=1 says that nothing is missing."""
    if os.environ.get(f"CFCAM_REQUIRE_{what}", default) == "1":
        pytest.fail(f"CFCAM_REQUIRE_{what}=1, but {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def module(name, what):
    """The module called `name`, or the end of the test, or of the file, that can't run without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return lacking(str(error), what)
