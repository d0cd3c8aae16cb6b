"""The CPU engine's threads: how many, whose, and in a forked child."""

import os
import signal
import threading
import traceback

import pytest
import torch

from cfcam_gpu import CFCAM
from cfcam_gpu.engines import workers

from ..small import Network, assert_same
from ..small import draw as images

#: Of a child, in which the test's own limit does not run.
SECONDS = 60


def of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_there_are_as_many_threads_as_torch_has_and_torchs_numbers_stay(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    workers._pools.pop(threads, None)
    try:
        seen, together = {}, threading.Barrier(threads)

        def work(number):
            if number < threads:
                together.wait(20)
            seen[threading.current_thread()] = torch.get_num_threads()

        workers.run(work, [(number,) for number in range(20)])
        assert len(seen) == threads
        assert set(seen.values()) == {1}
        assert torch.get_num_threads() == threads
        assert of_a_new_thread() == threads
        alone = []
        workers.run(lambda: alone.append((threading.current_thread(), torch.get_num_threads())), [()])
        assert alone == [(threading.main_thread(), threads)]
    finally:
        torch.set_num_threads(before)


def test_pools_that_begin_together_leave_torchs_number_of_threads_to_come():
    before, begun = of_a_new_thread(), threading.Barrier(6)
    sizes = [2, 3, 4, 5, 6, 7]
    for size in sizes:
        workers._pools.pop(size, None)

    def begin(size):
        begun.wait(20)
        workers._pool(size)

    callers = [threading.Thread(target=begin, args=[size]) for size in sizes]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert of_a_new_thread() == before
    assert [len(workers._pools[size]._threads) for size in sizes] == sizes


def test_an_error_of_one_job_comes_out():
    def work(number):
        if number == 3:
            raise ZeroDivisionError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            workers.run(work, [(number,) for number in range(6)])
    finally:
        torch.set_num_threads(before)


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
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected, threads = explain(images(0)), workers._pool(2)
        assert threads._threads

        def again():
            assert_same(explain(images(0)), expected, but=("logits", "weights", "raw_maps", "maps"))
            torch.testing.assert_close(explain(images(0)).maps, expected.maps)
            assert workers._pool(2) is not threads
            assert workers._pool(2)._threads

        assert in_a_fork(again) == 0
        assert workers._pool(2) is threads
        assert_same(explain(images(0)), expected)
    finally:
        torch.set_num_threads(before)
