"""The tests marked ``gpu``, each file in a process of its own, all at once, where a missing GPU is a failure."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import children

#: The files of tests/gpu.
FILES = (
    "test_dlpack",
    "test_engines",
    "test_fused",
    "test_cuda_graph",
    "test_rapids",
    "test_methods",
    "test_components",
    "test_pipelines",
    "test_whole_calls",
    "test_results",
    "test_metrics",
    "test_detection",
    "test_prompts",
    "test_exports",
)


def run(
    rapids: bool, report: Callable[[dict[str, Any]], None], *, seconds: float = 300.0, files: Sequence[str] = FILES
) -> dict[str, Any]:
    """Run them, files apart: a kernel that writes where it may not breaks CUDA for the rest of its process.

    Parameters
    ----------
    rapids : bool
        Whether a missing RAPIDS is a failure, too; else its tests are skipped.
    report : callable
        Gets what there is after each file.
    seconds : float
        For all of them; what is not done by then has failed.
    files : sequence of str
        Names of files, without ``.py``.

    Returns
    -------
    dict
        ``passed``; ``outcomes``: counted for each test function of each file; ``failed``: names, with parameters;
        ``recorded``: what tests recorded of themselves; ``files``: of each whether it passed, or why it has no
        outcomes, and the seconds after which it was done.
    """
    if importlib.util.find_spec("pytest") is None:
        return {"passed": False, "reason": "no test ran, because pytest is not installed: pip install pytest"}
    found: dict[str, Any] = {"outcomes": {}, "failed": [], "recorded": {}, "files": {}}
    if seconds <= 0:
        found["files"] = {name: {"passed": False, "reason": "not begun: no time was left"} for name in files}
        return {"passed": False, **found}
    start = time.monotonic()
    with ThreadPoolExecutor(len(files)) as pool, children.ending_with_us():
        running = {pool.submit(_run, name, rapids, seconds): name for name in files}
        for done in as_completed(running):
            name, (status, output, outcomes) = running[done], done.result()
            print(f"gpu-check: {name}\n{output}", flush=True)
            file = found["files"][name] = {"passed": status == 0, "seconds": round(time.monotonic() - start, 1)}
            if status is None:
                file["reason"] = f"not done within {seconds:.0f} s"
            elif outcomes is None:  # a crash, or no test that could be collected
                file["reason"] = f"pytest ended with status {status} and without outcomes"
            else:
                more = read(outcomes)
                found["outcomes"] |= more["outcomes"]
                found["failed"] += more["failed"]
                found["recorded"] |= more["recorded"]
            report(found)
    return {"passed": all(one["passed"] for one in found["files"].values()), **found}


def _run(name: str, rapids: bool, seconds: float) -> tuple[int | None, str, str | None]:
    """The exit status, None where it took too long; what it said; and the JUnit file's text, if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.xml"
        # The project's options name plugins that a GPU machine may lack; those that it has stay out, too.
        command = [sys.executable, "-m", "pytest", f"tests/gpu/{name}.py", "-m", "gpu", "-q", "-rfEs", "-o", "addopts="]
        command += ["-W", "ignore::pytest.PytestConfigWarning", f"--junitxml={outcomes}"]
        command += ["-o", "junit_family=xunit1"]  # the later one has no room for what a test records of itself
        command += ["-o", "faulthandler_timeout=60"]  # says where a test hangs
        required = {"CFCAM_REQUIRE_GPU": "1", "CFCAM_REQUIRE_RAPIDS": "1" if rapids else "0"}
        environ = {**os.environ, **required, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        status, output = children.run(command, environ, seconds)
        return status, output, outcomes.read_text() if outcomes.exists() else None


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
