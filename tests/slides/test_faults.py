"""Full disks, odd names, and files that are no slides: an error by name, or the right result."""

import errno
import json
import os

import pytest

from cfcam_gpu.results import durable
from cfcam_gpu.slides import job, work

from ..pipeline_jobs import contents
from .jobs import asked, explain, phantom, six_tiles


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return six_tiles(tmp_path_factory.mktemp("slides") / "phantom.tif")


@pytest.fixture(scope="module")
def done(slide, tmp_path_factory):
    """The folder of the slide's results."""
    (outcome,) = explain([slide], tmp_path_factory.mktemp("out"), classes=["1", "0"])
    assert outcome.error is None
    return outcome.folder


def test_what_the_system_writes_in_parts_is_written_whole(slide, done, tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: max(1, len(data) // 3)]))
    (outcome,) = explain([slide], tmp_path, classes=["1", "0"])
    assert contents(outcome.folder) == contents(done)


def test_a_full_disk_is_told_by_the_files_name_and_leaves_no_hole(slide, done, tmp_path, monkeypatch):
    write, put = os.write, durable.put

    def full(file, data):
        if os.readlink(f"/proc/self/fd/{file}").endswith("evidence-0.f32"):
            write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(file, data)

    monkeypatch.setattr(durable, "put", full)
    (outcome,) = explain([slide], tmp_path, classes=["1", "0"])
    assert "No space left on device" in outcome.error
    assert "evidence-0.f32" in outcome.error
    monkeypatch.setattr(durable, "put", put)
    (outcome,) = explain([slide], tmp_path, classes=["1", "0"])
    assert contents(outcome.folder) == contents(done)


def test_a_file_of_the_maps_has_its_name_in_the_error(tmp_path):
    with pytest.raises(OSError, match=r"map\.ome\.tif"), durable.placing(tmp_path / "map.ome.tif"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_name_that_is_no_utf_8(tmp_path):
    path = six_tiles(tmp_path / "bad\udcff.tif")
    (outcome,) = explain([path], tmp_path / "out")
    assert outcome.error is None
    assert json.loads((outcome.folder / "summary.json").read_text())["slide"]["name"] == "bad\ufffd.tif"
    assert "bad\ufffd.tif" in (outcome.folder / "page.html").read_text(encoding="utf-8")
    (again,) = explain([path], tmp_path / "out")
    assert (again.error, again.before) == (None, outcome.tiles)


def test_a_pipe_costs_no_other_slide_anything(slide, tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    piped, whole = explain([tmp_path / "pipe.tif", slide], tmp_path / "out")
    assert "no regular file" in piped.error
    assert whole.error is None


def test_one_side_that_is_said_does_not_make_pixels_square(tmp_path):
    resolution = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    path = phantom(tmp_path / "oblong.tif", mpp=None, **resolution)
    (outcome,) = explain([path], tmp_path / "out", slide_mpp=0.5)
    assert "0.5 x 0.25 micrometres" in outcome.error


def test_a_slide_far_smaller_than_a_tile_is_refused(slide, tmp_path):
    (outcome,) = explain([slide], tmp_path, mpp=1e5)
    assert "mpp: expected at most 3.5" in outcome.error


def test_who_reads_a_slide_ends_until_it_is_needed_again(slide, tmp_path):
    ready = job.check(asked([slide], tmp_path))
    with work.Work(slide, tmp_path / "phantom", ready.asked, None) as one:
        begun = one.readers
        one.rest()
        assert all(process._child.returncode is not None for process in begun._processes)
        assert next(one.read([range(1)])).shape == (1, 3, 224, 224)
        begun = one.readers
    assert all(process._child.returncode is not None for process in begun._processes)
