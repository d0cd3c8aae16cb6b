"""A slide's job that is killed at any moment, and goes on, leaves what an undisturbed one leaves, byte for byte."""

import multiprocessing
import os
import random
import time

import pytest

from cfcam_gpu.results import durable
from cfcam_gpu.slides import work

from ..pipeline_jobs import contents
from ..pipelines.test_kill import PRELOADED, Killed, Mortal
from .jobs import explain, six_tiles


def small(slide, out, **options):
    # The engine of which a process that is killed, and each that goes on, has nothing to load.
    return explain([slide], out, batch_size=2, classes=["1", "0"], engine="reference", **options)


def killed(slide, out, kind):
    """What a killed process was doing."""
    work.KEPT = 2
    small(slide, out, kind=kind)


def assert_nothing_half(out, whole):
    """What is there under its own name, but for the parts, is what the end has."""
    for name, data in contents(out).items():
        assert "/parts/" in name or "/." in name or data == whole[name], name


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return six_tiles(tmp_path_factory.mktemp("slides") / "phantom.tif")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("ome-tiff", 3),
        pytest.param("ome-zarr", 3, marks=pytest.mark.long),
        pytest.param("ome-tiff", 30, marks=pytest.mark.long),
    ],
)
def test_sigkill_at_random_moments(slide, tmp_path, kind, kills):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def start(out):
        process = context.Process(target=killed, args=(slide, out, kind))
        process.start()
        return process

    process = start(tmp_path / "whole")
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    seconds = time.monotonic() - began
    whole = contents(tmp_path / "whole")
    seed = time.time_ns()
    print(f"seed {seed}; a job takes {seconds:.1f} s")
    moments, cut = random.Random(seed), 0
    for number in range(kills):
        process = start(tmp_path / str(number // 3))  # three in a row
        process.join(moments.uniform(0.2, 1) * seconds)
        process.kill()
        process.join()
        cut += process.exitcode != 0
        assert_nothing_half(tmp_path / str(number // 3), whole)
    assert cut
    for number in {number // 3 for number in range(kills)}:
        process = start(tmp_path / str(number))
        process.join()
        assert process.exitcode == 0
        assert contents(tmp_path / str(number)) == whole


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("writes", "others"), [(10, 60), pytest.param(1, 1, marks=pytest.mark.long)])
def test_death_at_every_step(slide, tmp_path, monkeypatch, writes, others):
    monkeypatch.setattr(work, "KEPT", 2)
    counter = Mortal(10_000)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", counter)
        small(slide, tmp_path / "whole")
    whole, noted = contents(tmp_path / "whole"), list(enumerate(counter.noted, 1))
    assert len(noted) > 60
    # So many each; the last of all that is written is the summary.
    halves = [step for step, name in noted if name == "write"][::-writes]
    for step in halves + [step for step, name in noted if name != "write"][::-others]:
        out = tmp_path / str(step)
        mortal = Mortal(step)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", mortal)
            with pytest.raises(Killed):
                small(slide, out)
        assert_nothing_half(out, whole)
        (outcome,) = small(slide, out)
        assert outcome.error is None
        assert contents(out) == whole, step
        assert not [path for path in out.rglob(".*") if path.is_file()], step
