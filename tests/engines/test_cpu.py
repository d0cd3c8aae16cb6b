"""The CPU engine's threads, in the process that made them and in its children."""

import os
import signal
import traceback

import pytest
import torch

from cfcam_gpu import CFCAM
from cfcam_gpu.engines import cpu

from ..small import Network, assert_same, draw

#: Of a child, in which the test's own limit does not run.
SECONDS = 60


def in_a_fork(work):
    """How a forked child ends that does `work`: 0, 1 where it raised, minus the signal's number where it was ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            torch.set_num_threads(1)  # torch's own threads aren't there either
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
# Of Python 3.12 and later: that is what is tried here.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_explains_in_threads_of_its_own():
    """It has the parent's executor, but not its threads, and would wait for them for ever."""
    explain = CFCAM(Network().eval(), "late", engine="cpu")
    expected, threads = explain(draw(0)), cpu._workers()
    assert threads._threads

    def again():
        assert_same(explain(draw(0)), expected, but=("logits", "weights", "raw_maps", "maps"))
        torch.testing.assert_close(explain(draw(0)).maps, expected.maps)
        assert cpu._workers() is not threads
        assert cpu._workers()._threads

    assert in_a_fork(again) == 0
    assert cpu._workers() is threads
    assert_same(explain(draw(0)), expected)
