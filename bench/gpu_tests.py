"""The tests marked ``gpu``, in a process of their own, where a missing GPU is a failure."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]


def run(rapids: bool, *, seconds: float = 300.0) -> dict[str, Any]:
    """Run them.

    Parameters
    ----------
    rapids : bool
        Whether a missing RAPIDS is a failure, too; else its tests are skipped.
    seconds : float
        After so many it is a failure.

    Returns
    -------
    dict
        ``passed``; ``outcomes``: counted for each test function of each file; ``failed``: names, with parameters;
        ``recorded``: what tests recorded of themselves.
    """
    if importlib.util.find_spec("pytest") is None:
        return {"passed": False, "reason": "no test ran, because pytest is not installed: pip install pytest"}
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.xml"
        # The project's options name plugins that a GPU machine may lack.
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-rfEs", "-o", "addopts="]
        command += ["-W", "ignore::pytest.PytestConfigWarning", f"--junitxml={outcomes}"]
        environ = {**os.environ, "CFCAM_REQUIRE_GPU": "1", "CFCAM_REQUIRE_RAPIDS": "1" if rapids else "0"}
        try:
            done = subprocess.run(command, cwd=ROOT, env=environ, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return {"passed": False, "reason": f"not done within {seconds:.0f} s"}
        found = read(outcomes.read_text()) if outcomes.exists() else {}
    return {"passed": done.returncode == 0, **found}


def read(text: str) -> dict[str, Any]:
    """Outcomes, failures and recorded properties from pytest's JUnit file."""
    outcomes: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    failed: list[str] = []
    recorded: dict[str, dict[str, str]] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        file, name = str(case.get("classname")), str(case.get("name"))
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        outcomes[file][name.partition("[")[0]][outcome] += 1
        if outcome in ("failure", "error"):
            failed.append(f"{file}.{name}")
        properties = {str(one.get("name")): str(one.get("value")) for one in case.iter("property")}
        if properties:
            recorded[f"{file}.{name}"] = properties
    return {"outcomes": outcomes, "failed": failed, "recorded": recorded}
