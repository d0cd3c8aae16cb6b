"""compute-sanitizer and Nsight Compute: scripts in their place."""

import sys

import pytest

from bench import kernel_calls, nvidia_tools

from ..processes import assert_ended


def test_absent_tools_are_said(monkeypatch):
    monkeypatch.setattr(nvidia_tools, "_find", lambda tool: None)
    assert nvidia_tools.sanitize(1.0) == {"passed": None, "reason": "compute-sanitizer is not installed"}
    assert nvidia_tools.bandwidth(1.0) == {"passed": None, "reason": "ncu is not installed"}


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A script in the place of a tool."""

    def make(script):
        path = tmp_path / "tool"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(nvidia_tools, "_find", lambda name: str(path))

    return make


def test_each_sanitizer_runs_the_kernels_and_its_verdict_counts(tool):
    tool('echo "========= $2: $* 0 errors"; test "$2" != racecheck || exit "$4"')
    found = nvidia_tools.sanitize(60.0)
    assert found["memcheck"]["passed"]
    calls = f"{sys.executable} -m bench.kernel_calls odd 0 errors"
    options = "--tool memcheck --error-exitcode 9 --report-api-errors no"
    assert found["memcheck"]["last_lines"] == [f"========= memcheck: {options} {calls}"]
    assert found["synccheck"]["passed"]
    assert not found["racecheck"]["passed"]
    assert not found["passed"]


def test_a_sanitizer_that_is_not_done_in_time_has_not_failed(tool):
    tool('test "$2" != racecheck || exec sleep 60')
    found = nvidia_tools.sanitize(4.0)
    assert found["racecheck"] == {"passed": None, "reason": "not done within 2 s"}  # memcheck left it what it had
    assert (found["passed"], found["reason"]) == (None, "racecheck not done within 2 s")


def test_what_a_late_tool_started_is_stopped_with_it(tool, tmp_path):
    tool(f"sleep 60 >&- 2>&- & echo $! > {tmp_path / 'child'}; wait")
    nvidia_tools.bandwidth(4.0)
    assert_ended([int((tmp_path / "child").read_text())], 10)


def test_one_that_fails_counts_though_another_is_not_done(tool):
    tool('test "$2" != racecheck || exec sleep 60; test "$2" != synccheck || exit "$4"')
    assert nvidia_tools.sanitize(3.0)["passed"] is False


def test_each_sanitizer_watches_known_shapes():
    assert {*nvidia_tools.SANITIZERS.values(), *nvidia_tools.PROFILED} <= set(kernel_calls.CALLS)


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","dram__bytes.sum","gpu__time_duration.sum","launch__registers_per_thread"
"","","byte","ns","register/thread"
"0","pair_distances","10,000,000","20000","64"
"1","pair_distances","30,000,000","40,000","64"
"2","near_pairs","10","200","32"
"""


def test_ncus_table_is_read_of_64_images(tool, tmp_path):
    (tmp_path / "table").write_text(NCU)
    tool(f"cat {tmp_path / 'table'}")
    kernels = {
        "pair_distances": {"launches": 2, "us": 0.938, "mb": 0.625, "registers": 64.0},
        "near_pairs": {"launches": 1, "us": 0.003, "mb": 0.0, "registers": 32.0},
    }
    assert nvidia_tools.bandwidth(60.0) == {"passed": True, "layer4": kernels, "layer3": kernels}


def test_counters_that_may_not_be_read_are_no_failure(tool):
    tool('echo "==ERROR== The user does not have permission to access counters"; exit 1')
    found = nvidia_tools.bandwidth(60.0)
    assert found["passed"] is None
    assert "permission" in found["last_lines"][0]
