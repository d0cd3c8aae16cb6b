"""The thread that writes: what becomes of its faults."""

import errno
import os
import threading

import pytest
import torch

from cfcam_gpu.pipelines.batches import Found
from cfcam_gpu.pipelines.sources import Batch
from cfcam_gpu.pipelines.writer import WAITING, Writer


class Faulty:
    """A store of shards of two images, which fails at one of them."""

    shard_size = 2

    def __init__(self, fails_at=None):
        self.images = self.tried = 0
        self.fails_at = fails_at

    def write(self, maps, columns, *, overlays, digest):
        self.tried += 1
        if self.tried == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.images += len(maps)


def batch(count):
    """What is handed over of `count` images."""
    whole = torch.zeros(count, dtype=torch.int64)
    found = Found(torch.zeros(count, 3, 3), None, whole, whole.float(), whole.bool(), *[whole] * 4, [None] * count)
    return found, Batch(["name"] * count, torch.zeros(count, 3, 3, 3), [(3, 3)] * count, [None] * count, [None] * count)


def put(writer, *counts):
    for count in counts:
        writer.put(*batch(count))


def put_and_fail(writer, *counts):
    put(writer, *counts)
    raise KeyError("mine")


def put_and_refuse(writer, counts):
    """Hands over until it is refused; then nothing more is taken."""
    with pytest.raises(OSError, match="No space left") as first:
        put(writer, *counts)
    for _ in range(3 * WAITING):
        with pytest.raises(OSError, match="No space left") as again:
            put(writer, 2)
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
