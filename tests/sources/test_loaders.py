"""Processes that read: what they do where the memory that they share is too small, at Ctrl-C, and when one dies."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from cfcam_gpu.pipelines import Photographs
from cfcam_gpu.sources import loaders

from ..pipeline_jobs import TINY, photographs
from ..processes import assert_ended

#: How a process of its own begins: whatever it imports takes its time.
SOURCE = """
import sys; from pathlib import Path
from cfcam_gpu.image_files.photos import Preparation; from cfcam_gpu.sources.photographs import Photographs
source = Photographs(Path(sys.argv[1]), Preparation(32, 36, 2, (0.5,) * 3, (0.5,) * 3), workers=2)
"""


def test_batches_and_contents_agree_whoever_reads_them(tmp_path):
    source = photographs(tmp_path / "source", 7)
    (source / "00002.png").write_bytes(b"no image")
    (source / "00004.png").unlink()
    (source / "00004.png").symlink_to("nothing")
    expected = None
    for workers in (0, 2):
        found = Photographs(source, TINY, workers=workers)
        batches = {batch.index: batch for batch in found.batches(3)}
        assert list(batches) == [0, 3, 6]
        assert dict(found.contents(3, starts=[6, 0])) == {index: batches[index].digest for index in (6, 0)}
        again = list(found.batches(3, starts=[3]))
        assert [batch.index for batch in again] == [3]
        assert torch.equal(again[0].images, batches[3].images)
        assert [batch.pages for batch in batches.values()] == [[1, 1, None], [1, None, 1], [1]]
        expected = expected or [batch.digest for batch in batches.values()]
        assert [batch.digest for batch in batches.values()] == expected


def test_a_digest_is_of_the_bytes_and_nothing_else(tmp_path):
    source = photographs(tmp_path / "source", 3)
    found = Photographs(source, TINY)
    facts = found.fingerprint(3), found.stamps(3), list(found.contents(3, starts=[0]))
    os.utime(source / "00001.png", (1, 1))
    found = Photographs(source, TINY)
    assert found.fingerprint(3) == facts[0]
    assert found.stamps(1) == Photographs(source, TINY).stamps(1)
    assert found.stamps(3) != facts[1]
    assert list(found.contents(3, starts=[0])) == facts[2]
    data = (source / "00001.png").read_bytes()
    (source / "00001.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = Photographs(source, TINY)
    assert found.fingerprint(3) == facts[0]
    assert list(found.contents(3, starts=[0])) != facts[2]
    (source / "00001.png").write_bytes(data + b"x")
    assert Photographs(source, TINY).fingerprint(3) != facts[0]
    assert Photographs(source, TINY).fingerprint(1) == Photographs(source, TINY).fingerprint(1)


def test_a_long_file_counts_by_its_length_beginning_and_end(tmp_path, monkeypatch):
    from cfcam_gpu.sources import readers

    source = photographs(tmp_path / "source", 1)
    monkeypatch.setattr(readers, "WHOLE", 1000)
    monkeypatch.setattr(readers, "END", 100)
    found = Photographs(source, TINY)
    ((_, digest),) = found.contents(1, starts=[0])
    (batch,) = found.batches(1)
    assert batch.errors == [None]
    assert batch.digest == digest
    data = (source / "00000.png").read_bytes()
    for place, same in ((0, False), (len(data) // 2, True), (len(data) - 1, False)):
        (source / "00000.png").write_bytes(data[:place] + b"?" + data[place + 1 :])
        assert (list(found.contents(1, starts=[0])) == [(0, digest)]) == same


def test_a_signal_to_all_processes_is_not_the_workers(tmp_path):
    others = set(multiprocessing.active_children())  # of other tests
    found = Photographs(photographs(tmp_path / "source", 40), TINY, workers=2)
    count = 0
    for number, batch in enumerate(found.batches(2)):
        # By the second batch both have begun.
        for process in set(multiprocessing.active_children()) - others if number else ():
            os.kill(process.pid, signal.SIGTERM if number == 2 else signal.SIGINT)
        count += len(batch.sources)
    assert count == 40
    assert not set(multiprocessing.active_children()) - others


# What torch tells a second time, it tells while its iterator is taken down, where Python can only warn of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_killed_is_told(tmp_path):
    others = set(multiprocessing.active_children())  # of other tests
    found = Photographs(photographs(tmp_path / "source", 400), TINY, workers=1)
    batches = found.batches(1)
    next(batches)
    (process,) = set(multiprocessing.active_children()) - others
    # torch may tell of it in the main thread, whatever that is at.
    with pytest.raises(RuntimeError, match=r"(reads images has died: .*; where the system|is killed by signal)"):  # noqa: PT012
        os.kill(process.pid, signal.SIGKILL)
        list(batches)


@pytest.mark.slow
def test_workers_end_with_who_began_them(tmp_path):
    photographs(tmp_path / "source", 40)
    # torch's workers look every five seconds whether they are left alone.
    code = SOURCE + (
        "import multiprocessing, os, signal; from torch.utils.data._utils import worker\n"
        "worker.MP_STATUS_CHECK_INTERVAL = 0.1\n"
        "batches = source.batches(1); next(batches)\n"
        "print(*(process.pid for process in multiprocessing.active_children()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "source"], capture_output=True, text=True, timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    assert_ended(workers)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible",
            "the shared memory is too small: .*shm-size",
        ),
        (
            "DataLoader worker (pid 7) is killed by signal: Killed.",
            r"DataLoader worker \(pid 7\) is killed by signal: Killed\.; where the system killed it, as memory ran",
        ),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", r"DataLoader worker \(pid\(s\) 7\) exited"),
    ],
)
def test_how_a_worker_died_is_told_in_words_of_the_user(monkeypatch, said, told):
    def dying(*args, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(loaders, "DataLoader", lambda *args, **options: map(dying, [1]))
    from cfcam_gpu.sources.readers import Reader

    with pytest.raises(RuntimeError, match=f"a process that reads images has died: {told}"):
        list(loaders.loaded(Reader(".", TINY), [], 1))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount a tmpfs"
)
@pytest.mark.parametrize("size", ["8k", pytest.param("160k", marks=pytest.mark.long)])
def test_a_shared_memory_that_is_too_small_ends_the_reading_with_what_to_do(tmp_path, size):
    photographs(tmp_path / "source", 80)
    code = f"{SOURCE}list(source.batches(40))"
    # A mount of its own, that nobody else sees. A batch has 122,880 bytes, and the loader's queues have some, too.
    inside = f"mount -t tmpfs -o size={size} none /dev/shm && exec {sys.executable} -c '{code}' {tmp_path / 'source'}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", inside], capture_output=True, text=True, timeout=60)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("can't mount here")
    assert done.returncode == 1
    assert "the shared memory is too small" in done.stderr
    assert "(--workers 0), or make /dev/shm larger (docker run --shm-size 2g)" in done.stderr
