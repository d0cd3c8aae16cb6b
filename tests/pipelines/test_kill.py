"""A run that is killed at any moment, and goes on, leaves what an undisturbed one leaves, byte for byte."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from contextlib import suppress

import pyarrow.parquet as pq
import pytest

from cfcam_gpu.results import durable

from ..pipeline_jobs import (
    contents,
    explain_in_a_process,
    explain_on_a_slow_disk,
    explain_tiny,
    photographs,
)

#: What changes the disk. At each of these a process may be the last time.
STEPS = ("open", "write", "replace", "mkdir", "unlink", "rmdir")
#: What a process is forked from: with all that it would import, it explains in no time. Of slides, too: the one fork
#: server of a process of pytest has what it began with.
PRELOADED = (
    explain_tiny.__module__,
    "cfcam_gpu.engines.reference",
    "pyarrow.dataset",
    "sklearn.cluster",
    "tests.slides.jobs",
    "tifffile",
    "torch.fx.experimental.symbolic_shapes",
    "zarr",
)


class Killed(BaseException):
    pass


class Mortal:
    """`os` until its last step, of which half is done; nothing is done after it, no cleaning up either."""

    def __init__(self, steps):
        self.left = steps
        self.noted = []

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in (*STEPS, "fsync", "close"):
            return real

        def step(*args, **options):
            if name in STEPS and self.left:
                self.noted.append(name)
                self.left -= 1
                if not self.left and name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
            if not self.left and name != "close":
                raise Killed(name)
            return real(*args, **options)

        return step


class Filmed:
    """`os` that keeps what is in a folder at each step: what a process leaves that is killed there."""

    def __init__(self, folder, frames):
        self.folder, self.frames = folder, frames
        self.number, self.lock = 0, threading.RLock()

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in STEPS:
            return real

        def step(*args, **options):
            with self.lock:
                half = real(args[0], args[1][: len(args[1]) // 2]) if name == "write" else 0
                self.number += 1
                if self.folder.exists():
                    shutil.copytree(self.folder, self.frames / str(self.number))
                return half + real(args[0], args[1][half:]) if name == "write" else real(*args, **options)

        return step


def assert_nothing_half(out, whole):
    """What is there under its own name is a file of the finished job, or a readable part of its manifest."""
    for name, data in contents(out).items():
        if name.startswith("parts/"):
            assert pq.read_table(out / name).num_rows
        else:
            assert data == whole[name], name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(("shards", "kills"), [(10, 3), pytest.param(63, 20, marks=pytest.mark.long)])
def test_sigkill_at_random_moments(tmp_path, shards, kills):
    images = 32 * shards - 16  # the last shard is not full
    source = photographs(tmp_path / "source", images)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def start(out):
        process = context.Process(target=explain_in_a_process, args=(source, out))
        process.start()
        return process

    def wait_for(wanted, process, out):
        while process.exitcode is None and _parts(out, shards) < wanted:
            time.sleep(0.005)

    process = start(tmp_path / "whole")
    wait_for(1, process, tmp_path / "whole")
    began = time.monotonic()  # from the first shard on: before it, modules may be imported
    process.join()
    assert process.exitcode == 0
    seconds = (time.monotonic() - began) / (shards - 1)
    whole = contents(tmp_path / "whole")
    assert pq.read_metadata(tmp_path / "whole" / "manifest.parquet").num_rows == images

    seed = time.time_ns()
    print(f"seed {seed}; a shard takes {seconds:.3f} s")
    moments = random.Random(seed)
    out, seen = tmp_path / "killed", []
    for _ in range(kills):
        process = start(out)
        # So many shards on, and somewhere within the next: a moment that a busy machine doesn't move.
        wait_for(_parts(out, shards) + moments.randint(0, min(5, shards // 3)), process, out)
        process.join(moments.uniform(0, 1.5 * seconds))
        process.kill()
        process.join()
        if out.exists():
            assert_nothing_half(out, whole)
        seen.append(_parts(out, shards))
    assert len(set(seen)) > kills // 4, f"kills at {seen} shards"
    process = start(out)
    process.join()
    assert process.exitcode == 0
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.long)])
def test_two_signals_at_random_moments_on_a_slow_disk(tmp_path, times):
    source = photographs(tmp_path / "source", 72)  # the last shard is not full
    options = {"batch_size": 8, "shard_size": 16, "overlays": "png"}
    explain_tiny(source, tmp_path / "whole", **options)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    seed = time.time_ns()
    print(f"seed {seed}")
    moments, out, stopped = random.Random(seed), tmp_path / "out", 0
    for number in range(times):
        said, saying = context.Pipe(duplex=False)
        process = context.Process(target=explain_on_a_slow_disk, args=(source, out, seed + number, saying))
        process.start()
        saying.close()
        assert said.recv() == "began"
        time.sleep(moments.uniform(0, 0.8))
        for _ in range(2):
            with suppress(ProcessLookupError):  # it was faster
                os.kill(process.pid, moments.choice([signal.SIGINT, signal.SIGTERM]))
            time.sleep(moments.uniform(0, 0.2))
        while not said.poll(0.002):
            assert _is_locked(out) or said.poll(0.3), "the lock was free before the run had been left"
        if said.recv() == "stopped":
            stopped += 1
            assert said.recv(), "something was written after the run had been left"
            process.join(30)
            assert process.exitcode == 0
        else:
            # There is nothing left to stop. A signal may have come when the run was done, and ended the process.
            process.join(30)
            assert contents(out) == contents(tmp_path / "whole")
            shutil.rmtree(out)
    assert stopped > times // 4
    explain_tiny(source, out, **options)
    assert contents(out) == contents(tmp_path / "whole")


def _is_locked(out):
    import fcntl

    if not (out / "job.lock").exists():
        return True
    with open(out / "job.lock", "ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _parts(out, shards):
    return shards if (out / "manifest.parquet").exists() else len(list(out.glob("parts/*.parquet")))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job of two shards, one of them not full, with a bad image; what it leaves; in how many steps."""
    folder = tmp_path_factory.mktemp("job")
    source = photographs(folder / "source", 3)
    (source / "00001.png").write_bytes(b"no image")
    counter = Mortal(10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", counter)
        _small(source, folder / "whole")
    return source, contents(folder / "whole"), len(counter.noted)


def _small(source, out, **options):
    return explain_tiny(source, out, batch_size=2, shard_size=2, overlays="png", **options)


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.long)])
def test_death_at_every_step(job, tmp_path, monkeypatch, every):
    source, whole, steps = job
    assert steps > 40
    with monkeypatch.context() as patch:
        film = Filmed(tmp_path / "0", tmp_path)
        patch.setattr(durable, "os", film)
        _small(source, film.folder)
    assert film.number == steps
    for step in range(1, steps + 1):
        out = tmp_path / str(step)
        assert_nothing_half(out, whole)
        if step % every:
            continue
        _small(source, out)
        assert contents(out) == whole, step
        # Hidden names are those of files that are there: they have been written over, and none is left.
        assert not [path for path in out.rglob(".*") if path.is_file()], step


def test_death_at_every_step_of_a_restart(job, tmp_path, monkeypatch):
    source, whole, steps = job
    _small(source, tmp_path / "0", target=1)
    with monkeypatch.context() as patch:
        film = Filmed(tmp_path / "0", tmp_path)
        patch.setattr(durable, "os", film)
        _small(source, film.folder, restart=True)
    assert contents(film.folder) == whole
    # Of what follows until the job is as a new one, every other step.
    for step in range(1, film.number - steps + 2, 2):
        out = tmp_path / str(step)
        _small(source, out, restart=True)
        assert contents(out) == whole, step


def test_a_full_disk_stops_a_run_that_goes_on_later(job, tmp_path, monkeypatch):
    source, whole, _ = job

    class Full(Mortal):
        def __getattr__(self, name):
            if name != "write":
                return getattr(os, name)

            def write(file, data):
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return os.write(file, data)

            return write

    for writes in range(9):
        out = tmp_path / str(writes)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", Full(writes))
            with pytest.raises(OSError, match="No space left"):
                _small(source, out)
        assert not [path for path in out.rglob(".*") if path.is_file()], "what could not be written takes no room"
        assert_nothing_half(out, whole)
        _small(source, out)
        assert contents(out) == whole


def test_a_run_after_one_that_left_longer_files_is_an_undisturbed_one(job, tmp_path):
    source, whole, _ = job
    out = tmp_path / "out"
    for name in {*whole, "parts/00000000.parquet"} - {"job.json", "job.lock"}:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.part").write_bytes(b"?" * 100_000)
    (out / "job.json").write_bytes(whole["job.json"])  # it went on from there
    assert _small(source, out).before == 0
    assert contents(out) == whole
    assert not [path for path in out.rglob(".*") if path.is_file()]
