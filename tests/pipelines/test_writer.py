"""The thread that writes: what becomes of its faults."""

import errno
import os
import signal
import threading
import time
from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from cfcam_gpu.pipelines.found import Found
from cfcam_gpu.pipelines.writer import WAITING, Writer
from cfcam_gpu.sources.photographs import Batch


class Faulty:
    """A store of shards of two images, which fails at one of them."""

    shard_size = 2

    def __init__(self, fails_at=None):
        self.images = self.tried = 0
        self.fails_at = fails_at

    def write(self, number, maps, columns, *, overlays, digest):
        self.tried += 1
        if self.tried == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.images += len(maps)


class Slow(Faulty):
    """A store of shards of one image on a disk that takes its time."""

    shard_size = 1

    def __init__(self):
        super().__init__()
        self.writing = threading.Event()

    def write(self, number, maps, columns, *, overlays, digest):
        self.writing.set()
        time.sleep(0.2)
        super().write(number, maps, columns, overlays=overlays, digest=digest)


def batch(first, count):
    """What is handed over of `count` images."""
    found = replace(Found.failed([None] * count, (3, 3)), maps=torch.zeros(count, 3, 3))
    nothing = [None] * count
    return found, Batch(["name"] * count, torch.zeros(count, 3, 3, 3), [(3, 3)] * count, *[nothing] * 3, index=first)


def put(writer, *counts):
    for first, count in zip(accumulate(counts, initial=0), counts):
        writer.put(*batch(first, count))


def put_and_fail(writer, *counts):
    put(writer, *counts)
    raise KeyError("mine")


def put_and_refuse(writer, counts):
    """Hands over until it is refused; then nothing more is taken."""
    with pytest.raises(OSError, match="No space left") as first:
        put(writer, *counts)
    for _ in range(3 * WAITING):
        with pytest.raises(OSError, match="No space left") as again:
            writer.put(*batch(2 * len(counts), 2))
        assert again.value is first.value


@pytest.fixture
def written():
    """How many images were there when a shard was written."""
    return []


def writing(store, written):
    return Writer(store, class_names=None, done=lambda: written.append(store.images))


def test_shards_are_written_and_at_the_end_what_there_is(written):
    store = Faulty()
    with writing(store, written) as writer:
        put(writer, 1, 1, 2, 1)
    assert written == [2, 4, 5]


def test_after_its_first_fault_it_refuses_all_and_writes_nothing(written):
    store = Faulty(fails_at=2)
    # A batch is taken when the one WAITING + 1 before it has been dealt with.
    with pytest.raises(OSError, match="No space left"), writing(store, written) as writer:
        put_and_refuse(writer, [2] * (WAITING + 4))
    assert (store.tried, written) == (2, [2])
    assert not [thread for thread in threading.enumerate() if thread.name == "cfcam-writer"]


@pytest.mark.parametrize("counts", [(2, 2), (2, 1)], ids=["whole", "short"])
def test_a_fault_of_the_last_shard_is_told_at_the_end(written, counts):
    store = Faulty(fails_at=2)
    with pytest.raises(OSError, match="No space left"), writing(store, written) as writer:
        put(writer, *counts)
    assert (store.tried, written) == (2, [2])


def test_left_by_an_exception_it_writes_what_is_whole_and_the_exception_stays(written):
    store = Faulty()
    with pytest.raises(KeyError, match="mine"), writing(store, written) as writer:
        put_and_fail(writer, 2, 2, 1)
    assert written == [2, 4]


def _interrupt(*moments, senders=None):
    """Ctrl-C in the main thread, so many seconds from now each; the thread that sends them is in `senders` before."""

    def send():
        began = time.monotonic()
        for moment in moments:
            time.sleep(max(0, began + moment - time.monotonic()))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=send)
    if senders is not None:
        senders.append(thread)
    thread.start()
    return thread


@pytest.mark.skipif(os.name != "posix", reason="needs signals to a thread")
@pytest.mark.parametrize("moments", [(0.0,), (0.0, 0.03), (0.0, 0.01, 0.02, 0.05, 0.1)])
def test_however_often_it_is_interrupted_nothing_is_written_when_it_has_been_left(written, moments):
    store = Slow()
    senders = []
    # While it waits for room, and while it waits for the end.
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with writing(store, written) as writer:
            writer.put(*batch(0, 1))
            store.writing.wait()
            _interrupt(*moments, senders=senders)
            put_forever(writer)
        pytest.fail("left without a word")
    tried, threads = store.tried, [thread for thread in threading.enumerate() if thread.name == "cfcam-writer"]
    assert not threads
    senders[0].join()
    time.sleep(0.3)
    assert store.tried == tried == store.images, "what was under way was finished, and nothing begun behind it"
    assert tried <= WAITING + 2, "no more than was handed over"


def put_forever(writer):
    number = 1
    while True:
        writer.put(*batch(number, 1))
        number += 1


@pytest.mark.skipif(os.name != "posix", reason="needs signals to a thread")
def test_an_interrupt_of_its_orderly_end_is_told(written):
    store = Slow()
    with pytest.raises(KeyboardInterrupt), writing(store, written) as writer:  # noqa: PT012
        put(writer, 1, 1, 1)
        store.writing.wait()
        sender = _interrupt(0.05)
    sender.join()
    assert store.tried < 3
    assert written == list(range(1, store.tried + 1))
