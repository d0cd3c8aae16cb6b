"""The folder of results: what is in it, what is lost and done again, what is refused before anything is written."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from cfcam_gpu.pipelines.rows import COLUMNS
from cfcam_gpu.pipelines.store import ChangedError, Store

from ..pipeline_jobs import contents, maps, rows


def shard(first, count):
    """Maps, each full of its image's number, and their rows."""
    columns = {name: [None] * count for name in COLUMNS}
    columns |= {"index": list(range(first, first + count)), "source": [str(first + b) for b in range(count)]}
    return np.arange(first, first + count, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32), columns


def opened(folder, **options):
    store = Store(folder, **{"shape": (2, 3), "dtype": "float32", "shard_size": 4} | options)
    store.begin()
    return store


@pytest.fixture
def store(tmp_path):
    return opened(tmp_path / "out")


def write(store, *numbers, count=4, drawn=False):
    for number in numbers:
        found, columns = shard(4 * number, count)
        overlays = [np.zeros((2, 3, 3), np.uint8)] * count if drawn else None
        store.write(number, found, columns, overlays=overlays, digest=f"digest {number}")


def test_each_map_is_its_rows(store):
    write(store, 1, 0)
    write(store, 2, count=1)
    store.finish()
    assert [row["source"] for row in rows(store.folder)] == [str(b) for b in range(9)]
    np.testing.assert_array_equal(maps(store.folder)[:, 0, 0], range(9))


@pytest.mark.parametrize("total", [9, None], ids=["counted", "not counted"])
def test_an_unfinished_one_can_be_read(tmp_path, total):
    store = opened(tmp_path / "out", total=total)
    write(store, 0)
    found = maps(store.folder)
    assert found.shape == (total or 4, 2, 3)
    np.testing.assert_array_equal(found[:, 0, 0], [0, 1, 2, 3] + [np.nan] * 5 if total else range(4))
    assert pq.read_table(store.folder / "parts").num_rows == 4


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_maps_of_signals_and_volumes(tmp_path, shape):
    store = opened(tmp_path / "out", shape=shape)
    values = np.random.default_rng(0).random((4, *shape), np.float32)
    store.write(0, values, shard(0, 4)[1], overlays=None)
    store.finish()
    np.testing.assert_array_equal(maps(store.folder)[:], values)
    assert opened(store.folder, shape=shape).complete


@pytest.mark.parametrize("again", [False, True], ids=["at once", "by another run"])
def test_nothing_comes_behind_a_short_shard(store, again):
    """The rows would follow each other, and the maps begin with the next shard: each would be another image's."""
    write(store, 0)
    write(store, 1, count=3)
    if again:
        store = opened(store.folder)
    before = contents(store.folder)
    for number in (1, 2):
        with pytest.raises(ValueError, match=rf"shard {number} is done, or lies behind shard 1, which is the last"):
            write(store, number, drawn=True)
    assert contents(store.folder) == before
    assert (store.images, len(store.done)) == (7, 2)
    store.finish()
    np.testing.assert_array_equal(maps(store.folder)[:, 0, 0], range(7))


@pytest.mark.parametrize(
    ("count", "rows_of", "drawn", "message"),
    [
        (0, 0, None, "maps: expected 1 to 4, the images of a shard; got 0"),
        (5, 5, None, "maps: expected 1 to 4, the images of a shard; got 5"),
        (4, 3, None, "index: expected 4, one for each of the maps; got 3"),
        (4, 4, 3, "overlays: expected 4, one for each of the maps; got 3"),
    ],
)
def test_what_is_no_shard_is_refused_before_anything_is_written(store, count, rows_of, drawn, message):
    found, columns = shard(0, count)[0], shard(0, rows_of)[1]
    overlays = None if drawn is None else [np.zeros((2, 3, 3), np.uint8)] * drawn
    with pytest.raises(ValueError, match=message):
        store.write(0, found, columns, overlays=overlays)
    assert not store.folder.exists()


def test_maps_of_another_size_than_the_others_are_refused(store):
    with pytest.raises(ValueError, match=r"maps: expected \(2, 3\) each, as the others; got \(2, 4\)"):
        store.write(0, np.zeros((4, 2, 4), np.float32), shard(0, 4)[1], overlays=None)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


LOSSES = {
    "maps": lambda out: (out / "maps.zarr/c/1/0/0").unlink(),
    "cut": lambda out: _cut(out / "maps.zarr/c/1/0/0"),
    "cut overlay": lambda out: _cut(out / "overlays/00000001/0000000005.png"),
    "overlay": lambda out: (out / "overlays/00000001/0000000005.png").unlink(),
    "overlays": lambda out: shutil.rmtree(out / "overlays/00000001"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_shard_whose_files_are_lost_is_done_again_and_no_other(tmp_path, loss, finished, caplog):
    options = {"total": 11, "pictures": "png"}
    store = opened(tmp_path / "out", **options)
    write(store, 0, 1, drawn=True)
    write(store, 2, count=3, drawn=True)
    if finished:
        store.finish()
    whole = contents(store.folder)
    LOSSES[loss](store.folder)
    again = opened(store.folder, **options)
    assert (again.lost, sorted(again.done), again.complete) == ([1], [0, 2], False)
    assert "1 shards in" in caplog.text
    assert again.starts(2) == [4, 6]
    assert not (store.folder / "manifest.parquet").exists()
    write(again, 1, drawn=True)
    if finished:
        again.finish()
    assert contents(store.folder) == whole


def test_a_part_that_is_cut_off_is_done_again(tmp_path):
    store = opened(tmp_path / "out", total=8)
    write(store, 0, 1)
    _cut(store.folder / "parts/00000000.parquet")
    assert opened(store.folder, total=8).starts(4) == [0]


def test_a_manifest_that_is_cut_off_is_refused_with_the_way_out(tmp_path):
    store = opened(tmp_path / "out", total=4)
    write(store, 0)
    store.finish()
    _cut(store.folder / "manifest.parquet")
    before = contents(store.folder)
    with pytest.raises(ChangedError, match=r"manifest\.parquet is damaged .*: put a whole copy in its place"):
        opened(store.folder, total=4)
    assert contents(store.folder) == before


@pytest.mark.parametrize("total", [11, None])
def test_what_comes_behind_a_finished_one_leaves_what_is_done(tmp_path, total):
    store = opened(tmp_path / "out", total=total and 6)
    write(store, 0)
    write(store, 1, count=2)
    store.finish()
    more = opened(store.folder, total=total, grow=True)
    assert (sorted(more.done), more.complete) == ([0], False), "the last shard wasn't full"
    write(more, 1)
    write(more, 2, count=3)
    more.finish()
    whole = opened(tmp_path / "whole", total=total)
    write(whole, 0, 1)
    write(whole, 2, count=3)
    whole.finish()
    assert contents(more.folder) == contents(whole.folder)
