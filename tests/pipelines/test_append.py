"""Images that came later, explained behind those of a finished run."""

import numpy as np
import pytest
import torch

from cfcam_gpu import CFCAM, pipelines
from cfcam_gpu.pipelines import store

from ..albums import small
from ..pipeline_jobs import contents, explain, images, maps, photographs, rows

OPTIONS = {"batch_size": 2, "shard_size": 4}


@pytest.fixture
def source(tmp_path):
    return photographs(tmp_path / "source", 6)


def add(source, *names):
    for seed, name in enumerate(names):
        (made,) = photographs(source.parent / f"{name} {seed}", 1, seed=seed + 1).iterdir()
        made.rename(source / name)


def test_new_files_come_behind_wherever_their_names_are(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out, **OPTIONS)
    before = maps(out)[:]
    add(source, "0.png", "00002a.png", "z.png")
    with pytest.raises(store.ChangedError, match=r"3 images are new behind the 6 .*append \(--append\)"):
        explain(source, out, **OPTIONS)
    found = explain(source, out, append=True, **OPTIONS)
    assert (found.before, found.images) == (4, 9), "the last shard wasn't full: its images are explained again"
    names = [row["source"] for row in rows(out)]
    assert names == [*(f"{b:05d}.png" for b in range(6)), "0.png", "00002a.png", "z.png"]
    assert [row["index"] for row in rows(out)] == list(range(9))
    np.testing.assert_array_equal(maps(out)[:6], before)
    for b, name in enumerate(names):
        (tmp_path / "alone" / name).mkdir(parents=True)
        (tmp_path / "alone" / name / name).write_bytes((source / name).read_bytes())
        explain(tmp_path / "alone" / name, tmp_path / "alone out" / name)
        np.testing.assert_allclose(maps(tmp_path / "alone out" / name)[0], maps(out)[b], atol=2e-3)
    whole = contents(out)
    for append in (False, True):
        assert explain(source, out, append=append, **OPTIONS).before == 9
        assert contents(out) == whole
    add(source, "1.png")
    assert explain(source, out, append=True, **OPTIONS).images == 10
    assert [row["source"] for row in rows(out)] == [*names, "1.png"]


def test_new_files_behind_all_others_are_told_with_the_way(source, tmp_path):
    explain(source, tmp_path / "out", **OPTIONS)
    add(source, "z.png")
    with pytest.raises(store.ChangedError, match=r"1 images are new behind the 6 .*append \(--append\)"):
        explain(source, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("change", ["gone", "other bytes", "target"])
def test_what_was_explained_must_be_there_still(source, tmp_path, change):
    out = tmp_path / "out"
    explain(source, out, **OPTIONS)
    add(source, "0.png")
    first, options = source / "00000.png", {}
    if change == "gone":
        first.unlink()
    elif change == "other bytes":
        data = bytearray(first.read_bytes())
        data[-30] ^= 1
        first.write_bytes(data)
    else:
        options = {"target": 2}
    before = contents(out)
    with pytest.raises(store.ChangedError):
        explain(source, out, append=True, **OPTIONS, **options)
    assert contents(out) == before


def test_an_append_that_was_stopped_goes_on(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out, **OPTIONS)
    add(source, "0.png", "1.png", "2.png", "3.png")

    def stop(done, total):
        if done > 4:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        explain(source, out, append=True, progress=stop, **OPTIONS)
    assert explain(source, out, **OPTIONS).before == 8
    assert [row["source"] for row in rows(out)][5:7] == ["00005.png", "0.png"]
    assert rows(out)[-1]["source"] == "3.png"


def test_a_longer_stream(tmp_path):
    explainer, x, out = CFCAM(small().eval(), "1"), images(11), tmp_path / "out"
    pipelines.run(explainer, [x[:6]], out, **OPTIONS)
    with pytest.raises(store.ChangedError, match=r"and others behind them: .*append \(--append\)"):
        pipelines.run(explainer, [x], out, **OPTIONS)
    assert pipelines.run(explainer, [x], out, append=True, **OPTIONS).images == 11
    pipelines.run(explainer, [x], tmp_path / "whole", **OPTIONS)
    assert contents(out) == contents(tmp_path / "whole")
    full = tmp_path / "full"
    pipelines.run(explainer, [x[:8]], full, **OPTIONS)
    with pytest.raises(store.ChangedError, match=r"there are images behind the 8 that were explained.*append"):
        pipelines.run(explainer, [x], full, **OPTIONS)
    whole = contents(out)
    others = (torch.cat([x[:1] + 1, x[1:], x]), torch.cat([x[:9], x[:6]]), x[:8], x[:9], torch.cat([x[:10], x[:1]]))
    for other in others:
        with pytest.raises(store.ChangedError, match=r"another one|has changed"):
            pipelines.run(explainer, [other], out, append=True, **OPTIONS)
        assert contents(out) == whole
    assert pipelines.run(explainer, [x], out, append=True, **OPTIONS).images == 11


def test_new_files_of_a_run_that_is_not_done(source, tmp_path):
    out = tmp_path / "out"

    def stop(done, total):
        if done:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        explain(source, out, progress=stop, **OPTIONS)
    add(source, "0.png")
    assert explain(source, out, append=True, **OPTIONS).before == 4
    assert [row["source"] for row in rows(out)] == [*(f"{b:05d}.png" for b in range(6)), "0.png"]
