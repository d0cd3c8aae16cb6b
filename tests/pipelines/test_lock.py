"""A folder is one run's at a time, be the other one of another process or of this one."""

import multiprocessing
import threading

import pytest

from cfcam_gpu.pipelines.lock import held


def test_another_process_is_kept_out(tmp_path):
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def other():
        held_here = __import__("cfcam_gpu.pipelines.lock", fromlist=["_held"])._held
        held_here.clear()  # a process of its own, not a fork of the one that has it
        try:
            with held(tmp_path):
                writer.send("in")
        except FileExistsError as error:
            writer.send(str(error))

    for message in ("another process is writing to", "another process is writing to"):
        with held(tmp_path):
            process = context.Process(target=other)
            process.start()
            process.join()
        assert message in reader.recv()
    process = context.Process(target=other)
    process.start()
    process.join()
    assert reader.recv() == "in"


def test_another_thread_is_kept_out_and_takes_no_lock_away(tmp_path):
    said = []
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)

    def other():
        for folder in (tmp_path, tmp_path / "link"):
            try:
                with held(folder):
                    said.append("in")
            except FileExistsError as error:
                said.append(str(error))

    with held(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert ["another run of this process is writing to" in text for text in said] == [True, True]
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_take, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 3, "the lock that other processes see was lost"
    with held(tmp_path):
        pass


def _take(folder):
    import fcntl

    with open(folder / "job.lock", "ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(3) from None


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError, match="mine"), held(tmp_path):
        raise KeyError("mine")
    with held(tmp_path):
        pass
