"""Processes that a test has started, or that another has."""

import time

import psutil


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has waited for yet, a zombie, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_ended(pids, seconds=20):
    """That processes have ended, or do so soon: a signal takes a moment to arrive."""
    pids, until = list(pids), time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left
