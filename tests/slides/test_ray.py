"""Slides on Ray: what comes of them is what comes of them on one machine."""

from contextlib import nullcontext

import pytest

from cfcam_gpu.pipelines import ray_session

from ..pipeline_jobs import contents
from .jobs import explain, phantom

quietly = pytest.mark.filterwarnings(
    "ignore:`use_push_based_shuffle`", "ignore:`use_polars`", "ignore:`use_arrow_tensor_v2`"
)


@quietly
@pytest.mark.long
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("cluster")
def test_several_slides_one_of_them_bad(tmp_path, monkeypatch):
    # This process is on the cluster already.
    monkeypatch.setattr(ray_session, "connected", lambda address: nullcontext())
    good = [
        phantom(tmp_path / "a.tif", width=784, height=448, disc=(300, 200, 60)),
        phantom(tmp_path / "b.tif", width=560, height=448, disc=(200, 200, 60)),
    ]
    broken = phantom(tmp_path / "c.tif", width=784, height=560, disc=None)
    slides = [good[0], broken, tmp_path / "d.tif", good[1]]
    slides[2].write_bytes(b"no slide")
    here = explain(good, tmp_path / "here", classes=["1", "0"])
    found = explain(
        slides,
        tmp_path / "there",
        classes=["1", "0"],
        ray="",
        # Gone when its tiles are to be read by a process of Ray's.
        progress=lambda number, done, total: broken.unlink(missing_ok=True) if number == 1 else None,
    )
    assert [outcome.error is None for outcome in found] == [True, False, False, True]
    assert "c.tif" in found[1].error
    for wanted, outcome in zip(here, [found[0], found[3]]):
        assert contents(outcome.folder) == contents(wanted.folder)
    again = explain(slides[::3], tmp_path / "there", classes=["1", "0"], ray="")
    assert all(outcome.before == outcome.tiles for outcome in again)
