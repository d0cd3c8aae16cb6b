"""Files are whole or not there: by whom they are written, and what is on the disk when."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from cfcam_gpu.results import durable, saving

from ..test_structure import modules
from .test_saving import contents, explanation


class Recorder:
    """`os`, and the names and first arguments of what changes the disk; of `open` the descriptor."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "close", "replace"):
            return real

        def step(*args):
            found = real(*args)
            self.calls.append((name, found if name == "open" else args[0]))
            return found

        return step


STEPS = ["open", "write", "fsync", "close", "replace", "open", "fsync", "close"]


@pytest.mark.parametrize("how", ["write", "replacing"])
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, how):
    recorder = Recorder()
    monkeypatch.setattr(durable, "os", recorder)
    if how == "write":
        durable.write(tmp_path / "a", b"data")
    else:
        with durable.replacing(tmp_path / "a") as file:
            file.write(b"da")
            file.write(b"ta")
    assert [name for name, _ in recorder.calls] == STEPS
    assert len({descriptor for _, descriptor in recorder.calls[:4]}) == 1
    assert contents(tmp_path) == {"a": b"data"}


def test_every_file_of_an_explanation_is_written_so(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(durable, "os", recorder)
    files = explanation().save(tmp_path, images=torch.rand(2, 3, 12, 16))
    # Their names go to the disk with that of the last one, which tells of them.
    assert [name for name, _ in recorder.calls] == STEPS[:5] * (len(files) - 1) + STEPS
    assert Path(recorder.calls[-4][1]).name.startswith(".explanations.jsonl")


def test_no_module_but_one_puts_files_in_their_place():
    text = {name: path.read_text() for name, path in modules().items()}
    assert [name for name, source in text.items() if "os.replace" in source or "fsync" in source] == [
        "cfcam_gpu.results.durable"
    ]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.npy"
    path.write_text("before")

    def write_half():
        with durable.replacing(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert contents(tmp_path) == {"a.npy": b"before"}
    with durable.replacing(path) as file:
        file.write(b"after")
    assert contents(tmp_path) == {"a.npy": b"after"}


def test_two_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    """Each has a temporary file of its own, so that the name is never one of half a file."""
    path, replace, seen = tmp_path / "a", os.replace, []

    class Meeting(Recorder):
        def __getattr__(self, name):
            return self._replace if name == "replace" else getattr(os, name)

        @staticmethod
        def _replace(part, name):
            if not seen:
                seen.append(part)
                with durable.replacing(path) as file:  # the other one, before the first has renamed its own
                    file.write(b"other")
                assert path.read_bytes() == b"other"
            replace(part, name)

    monkeypatch.setattr(durable, "os", Meeting())
    with durable.replacing(path) as file:
        file.write(b"first")
    assert contents(tmp_path) == {"a": b"first"}


def test_what_a_killed_run_left_of_a_longer_file_is_gone(tmp_path):
    """Its hidden name is that of the file that is written now."""
    (tmp_path / ".a.part").write_bytes(b"of a longer file")
    durable.write(tmp_path / "a", b"data")
    assert contents(tmp_path) == {"a": b"data"}


def test_a_part_that_took_several_writes_is_whole(tmp_path, monkeypatch):
    class Slow:
        def __getattr__(self, name):
            return (lambda file, data: os.write(file, data[:3])) if name == "write" else getattr(os, name)

    monkeypatch.setattr(durable, "os", Slow())
    durable.write(tmp_path / "a", np.arange(10, dtype=np.uint8).data)
    assert (tmp_path / "a").read_bytes() == bytes(range(10))


@pytest.mark.parametrize(("number", "stops"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_server_that_syncs_no_folder_stops_nothing(tmp_path, monkeypatch, number, stops):
    class Server(Recorder):
        def __getattr__(self, name):
            return self._fsync if name == "fsync" else getattr(os, name)

        @staticmethod
        def _fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "os", Server())
    if stops:
        with pytest.raises(OSError, match="Input/output error"):
            saving.write_lines(tmp_path / "a", [{}])
    else:
        saving.write_lines(tmp_path / "a", [{}])
    assert contents(tmp_path) == {"a": b"{}\n"}
