"""What an image may be to blame for, what must end the work, and what is left of a batch that failed."""

import gc
import weakref

import pytest
import torch

from cfcam_gpu.explain import attempts
from cfcam_gpu.explain.attempts import attempt, reason, together_or_alone

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IMAGES_FAULTS = [TypeError, ValueError, RuntimeError, MemoryError, torch.cuda.OutOfMemoryError]


def failing(error, bad, calls):
    """Work that fails where one of the `bad` is among its items."""

    def work(items):
        calls.append(list(items))
        if set(items) & set(bad):
            raise error
        return [10 * item for item in items]

    return work


def test_a_batch_that_works_is_one_call():
    calls = []
    assert list(together_or_alone(failing(ValueError(), [], calls), [1, 2, 3], CPU)) == [([1, 2, 3], [10, 20, 30])]
    assert calls == [[1, 2, 3]]


@pytest.mark.parametrize("kind", IMAGES_FAULTS)
def test_of_a_batch_that_fails_each_is_tried_alone(kind):
    calls, error = [], kind("no")
    found = list(together_or_alone(failing(error, [2], calls), [1, 2, 3], CPU))
    assert found == [([1], [10]), ([2], error), ([3], [30])]
    assert calls == [[1, 2, 3], [1], [2], [3]]


def test_a_single_one_that_fails_is_not_tried_again():
    calls, error = [], ValueError("no")
    assert list(together_or_alone(failing(error, [1], calls), [1], CPU)) == [([1], error)]
    assert calls == [[1]]


@pytest.mark.parametrize("error", [KeyError("a bug"), OSError("a full disk"), KeyboardInterrupt()], ids=repr)
def test_what_is_no_images_fault_ends_the_work(error):
    calls = []
    with pytest.raises(type(error)):
        list(together_or_alone(failing(error, [1], calls), [1, 2], CPU))
    assert len(calls) == 1


def test_a_reader_that_died_is_no_images_fault():
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        attempt(
            lambda: failing(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), [1], [])([1]), CPU
        )


def test_a_device_that_is_out_of_order_ends_the_work(monkeypatch):
    """After an illegal access every call fails, so that each image would be to blame."""
    asked, calls = [], []

    def synchronize(device):
        asked.append(device)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    work = failing(ValueError("no"), [2], calls)
    assert attempt(lambda: work([1]), CUDA) == [10]
    assert isinstance(attempt(lambda: work([2]), CPU), ValueError)
    assert asked == []
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(together_or_alone(work, [1, 2, 3], CUDA))
    assert asked == [CUDA]
    assert calls[-1] == [1, 2, 3]


def test_nothing_of_a_batch_is_kept_while_each_is_tried_alone():
    """Not even by an error that comes of another one, whose traceback has the tensors."""
    held = []

    def work(items):
        batch = torch.ones(len(items))
        held.append(weakref.ref(batch))
        if 2 in items:
            try:
                raise RuntimeError("first")
            except RuntimeError as error:
                raise ValueError("no") from error

    alive = []
    for _ in together_or_alone(work, [1, 2], CPU):
        gc.collect()
        alive.append(held[0]() is not None)
    assert alive == [False, False]


def test_a_reason_is_never_empty():
    assert [reason(error) for error in (ValueError("why"), MemoryError())] == ["why", "MemoryError"]
    assert issubclass(torch.cuda.OutOfMemoryError, attempts.FAILURES)
