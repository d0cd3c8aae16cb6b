"""The folder of results: what is refused before anything is written."""

import numpy as np
import pytest

from cfcam_gpu.pipelines.rows import COLUMNS
from cfcam_gpu.pipelines.store import Store

from ..pipeline_jobs import contents, maps, rows


def shard(first, count):
    """Maps, each full of its image's number, and their rows."""
    columns = {name: [None] * count for name in COLUMNS}
    columns |= {"index": list(range(first, first + count)), "source": [str(first + b) for b in range(count)]}
    return np.arange(first, first + count, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32), columns


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out", shard_size=4, pictures="png")


def test_each_map_is_its_rows(store):
    for first, count in ((0, 4), (4, 4), (8, 1)):
        found, columns = shard(first, count)
        store.write(found, columns, overlays=None)
    store.finish("float32")
    assert [row["source"] for row in rows(store.folder)] == [str(b) for b in range(9)]
    np.testing.assert_array_equal(maps(store.folder)[:, 0, 0], range(9))


@pytest.mark.parametrize("again", [False, True], ids=["at once", "by another run"])
def test_nothing_comes_behind_a_short_shard(store, again):
    """The rows would follow each other, and the maps begin with the next shard: each would be another image's."""
    store.write(*shard(0, 4), overlays=None)
    store.write(*shard(4, 3), overlays=None)
    if again:
        store = Store(store.folder, shard_size=4, pictures="png")
    before = contents(store.folder)
    message = "maps: expected no more: after 2 shards of 4 images there are 7, so the last one has been written; got"
    for count in (4, 1):
        found, columns = shard(7, count)
        with pytest.raises(ValueError, match=f"{message} {count}"):
            store.write(found, columns, overlays=[np.zeros((2, 3, 3), np.uint8)] * count)
    assert contents(store.folder) == before
    assert (store.images, len(store.digests)) == (7, 2)
    store.finish("float32")
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
        store.write(found, columns, overlays=overlays)
    assert not store.folder.exists()
