"""Worker processes: in order, ahead, and none left, however it ends."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from cfcam_gpu.slides import process, tissue, workers
from cfcam_gpu.slides.errors import SlideError
from cfcam_gpu.slides.info import inspect
from cfcam_gpu.slides.region import Region
from cfcam_gpu.slides.workers import TileReaders

from ..processes import assert_ended
from . import files

pytest.importorskip("imagecodecs")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    return inspect(files.pyramid(path, files.levels(files.picture(), (1, 4)), compression="lzw"))


def regions(count):
    return [Region(13 * n % 800, 29 * n % 600, 40 + n % 3, 30) for n in range(count)]


@functools.cache
def padded():
    return np.pad(files.picture(), ((0, 100), (0, 100), (0, 0)), constant_values=255)


def expected(region):
    return padded()[region.y : region.y + region.height, region.x : region.x + region.width]


def children(readers):
    return [process._child for process in readers._processes]


@pytest.mark.parametrize("count", [1, 3])
def test_in_order_and_the_callers_own(count, slide):
    with TileReaders(slide, count) as readers:
        wanted = regions(100)
        found = list(readers.tiles(iter(wanted)))
        for region, pixels in zip(wanted, found, strict=True):
            assert (pixels == expected(region)).all()
        found[0][:] = 0  # writable, and no other's
        assert (found[-1] == expected(wanted[-1])).all()
        # Again, at another scale.
        [pixels] = readers.tiles([Region(0, 0, 100, 100, Fraction(4))])
        assert (pixels == files.reduced(files.picture(), 4)[:100, :100]).all()
        ended = children(readers)
    assert all(child.returncode is not None for child in ended)


def test_read_ahead_of_who_takes_them_and_no_further(slide, monkeypatch):
    monkeypatch.setattr(workers, "AHEAD", 10 * 40 * 30 * 3)
    taken = []

    def asked():
        for region in regions(100):
            taken.append(region)
            yield region

    with TileReaders(slide, 2) as readers:
        found = readers.tiles(asked())
        next(found)
        assert 9 <= len(taken) <= 12
        # They are here before they are asked for.
        until = time.monotonic() + 20
        while sum(process._answers.qsize() for process in readers._processes) < len(taken) - 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        for n, _ in enumerate(found):
            assert len(taken) <= n + 13


def test_left_before_its_end_and_used_again(slide):
    with TileReaders(slide, 2) as readers:
        found = readers.tiles(regions(50))
        next(found)
        found.close()
        last = regions(60)[-1]
        [pixels] = readers.tiles([last])
        assert (pixels == expected(last)).all()


@pytest.mark.parametrize(("moment", "signalled"), [("an answer", KeyboardInterrupt), ("a question", SystemExit)])
def test_a_signal_before_it_is_counted_is_not_waited_for(slide, moment, signalled, monkeypatch):
    readers = TileReaders(slide, 1, patience=30)
    [child], [one] = children(readers), readers._processes
    get, put = one._answers.get, one._answers.put

    def interrupt(*_, **options):
        if options:
            get(**options)
        raise signalled

    if moment == "an answer":
        monkeypatch.setattr(one, "_answers", SimpleNamespace(get=interrupt, put=put))
    else:
        monkeypatch.setattr(process, "json", SimpleNamespace(dumps=interrupt, loads=json.loads))
    begun = time.monotonic()
    with pytest.raises(signalled):
        list(readers.tiles(regions(20)))
    assert time.monotonic() - begun < 20
    assert child.returncode is not None


def test_a_process_that_dies_is_the_slides_error(slide):
    threads = threading.active_count()
    with TileReaders(slide, 2) as readers:
        ended = children(readers)
        found = readers.tiles(regions(2000))
        next(found)
        os.kill(ended[1].pid, signal.SIGKILL)
        with pytest.raises(SlideError, match=r"ended by the signal 9 \(Killed\).*give fewer workers"):
            list(found)
        with pytest.raises(SlideError):
            list(readers.tiles(regions(20)))
    assert all(child.returncode is not None for child in ended)
    assert threading.active_count() == threads


def test_a_process_that_hangs_is_the_slides_error(slide):
    with TileReaders(slide, 1) as readers:
        [child], [one] = children(readers), readers._processes
        one.patience = 0.1
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(SlideError, match=r"no answer for 0\.1 seconds"):
            list(readers.tiles(regions(5)))
        assert child.returncode is not None


def test_what_can_not_be_opened_leaves_no_process(slide, tmp_path, monkeypatch):
    begun = []
    begin = workers.Process
    monkeypatch.setattr(workers, "Process", lambda patience: begun.append(begin(patience)) or begun[-1])
    with pytest.raises(OSError, match="No such file"):
        TileReaders(replace(slide, path=str(tmp_path / "gone.tif"), reader="tifffile"), 2)
    assert len(begun) == 2
    assert all(process._child.returncode is not None for process in begun)


def test_signals_to_the_group_are_not_for_the_workers(slide):
    with TileReaders(slide, 1) as readers:
        [child] = children(readers)
        assert os.getpgid(child.pid) != os.getpgrp()


def test_memory_does_not_grow_with_the_slide(tmp_path, monkeypatch):
    monkeypatch.setattr(tissue, "LONGEST", 700)
    slide = inspect(files.big_slide(tmp_path / "big.tif"))
    assert (slide.width, slide.height, len(slide.levels)) == (40_000, 40_000, 3)
    readers = [slide, replace(slide, reader="tifffile")]
    for each in readers if slide.reader == "cucim" else readers[1:]:
        with TileReaders(each, 1) as reading:
            found = tissue.find(reading)
            assert found.mask.shape == (625, 625)
            assert abs(found.mask.mean() - (24_576 / 40_000) ** 2) < 0.01
            rows = [Region(x, y, 224, 224) for y in range(10_000, 34_000, 6_000) for x in range(0, 40_000, 220)]
            for _ in reading.tiles(rows):
                pass
            with open(f"/proc/{children(reading)[0].pid}/status") as status:
                [peak] = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak < 200_000  # kB: 60 of Python and libraries, 64 of tiles that are kept


def test_it_ends_with_who_began_it(slide, tmp_path):
    # Also a script whose main part is not guarded, as one may be.
    script = f"""
import os, sys
from cfcam_gpu.slides.info import SlideInfo, inspect
from cfcam_gpu.slides.workers import TileReaders
readers = TileReaders(inspect({slide.path!r}), 2)
print(*(process._child.pid for process in readers._processes), "torch" in sys.modules, flush=True)
os.kill(os.getpid(), 9)
"""
    (tmp_path / "script.py").write_text(script)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, env=path, check=False
    )
    *pids, torch = ran.stdout.split()
    assert len(pids) == 2, ran.stderr
    assert torch == "False"
    assert_ended(map(int, pids))


def test_a_busy_process_ends_with_who_began_it(slide, tmp_path):
    busy = tmp_path / "busy"
    (tmp_path / "tifffile.py").write_text(f"import time\nopen({str(busy)!r}, 'w').close()\ntime.sleep(60)\n")
    script = f"""
import os, sys, time
sys.path.insert(0, {str(tmp_path)!r})
from cfcam_gpu.slides.process import Process
process = Process(60.0)
process.send("inspect", path={slide.path!r})
while not os.path.exists({str(busy)!r}):
    time.sleep(0.01)
print(process._child.pid, process._child.poll(), flush=True)
os.kill(os.getpid(), 9)
"""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=path, check=False)
    pid, ended = ran.stdout.split()
    assert ended == "None"
    assert_ended([int(pid)], 10)
