"""Slides explained: the evidence lies where it belongs, each slide by itself, and a job goes on where it was."""

import functools
import json
import os
import sys
from fractions import Fraction

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr
from PIL import Image

from cfcam_gpu.slides import job, process, strongest, work, workers
from cfcam_gpu.slides.pyramid import Raster
from cfcam_gpu.slides.tiles import Plan

from ..pipeline_jobs import contents
from .files import MPP
from .jobs import DISC, SIDES, asked, explain, green, phantom, six_tiles, spoilt

__all__ = ["spoilt"]

#: Pixels of level 0 in a cell of the map at the slide's own scale.
CELL = 8
#: What most tests ask for.
BOTH = {"classes": ("1", "0")}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return phantom(tmp_path_factory.mktemp("slides") / "phantom.tif")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return six_tiles(tmp_path_factory.mktemp("slides") / "small.tif")


@pytest.fixture(scope="module")
def explained(slide, tmp_path_factory):
    """What has become of the slide by options, of which each are tried once."""

    @functools.cache
    def once(**options):
        (outcome,) = explain([slide], tmp_path_factory.mktemp("out"), **options)
        assert outcome.error is None
        return outcome

    return once


@pytest.fixture(scope="module")
def done(explained):
    """The folder of the slide's results."""
    return explained(**BOTH).folder


def maps(folder, index=1, channel=0):
    return tifffile.imread(folder / f"map-{index}.ome.tif")[channel]


def peak(values):
    """The middle of the cells above nine tenths of the maximum, x and y in pixels of the map."""
    y, x = np.nonzero(np.nan_to_num(values) > 0.9 * np.nanmax(values))
    return x.mean() + 0.5, y.mean() + 0.5


@pytest.mark.parametrize(
    "options",
    [
        BOTH,
        {"overlap": 0.0},
        pytest.param({"overlap": 0.25}, marks=pytest.mark.long),
        pytest.param({"tile": 160}, marks=pytest.mark.long),
        {"tile": 160, "overlap": 0.25},
        {"tile": 300, "overlap": 0.6},
        {"mpp": 2 * MPP},
    ],
    ids=str,
)
def test_the_peak_is_where_the_target_is(explained, options):
    values = maps(explained(**options).folder)
    scale = CELL * options.get("mpp", MPP) / MPP
    assert values.shape == (SIDES[1] / scale, SIDES[0] / scale)
    x, y = peak(values)
    assert np.hypot(x * scale - DISC[0], y * scale - DISC[1]) < DISC[2] / 2
    # What is no part of it, and farther from it than its blur, has no share of the evidence.
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
    far = np.hypot((columns + 0.5) * scale - DISC[0], (rows + 0.5) * scale - DISC[1]) > 2 * DISC[2] + 64
    assert np.nanmax(values[far]) < 0.1 * np.nanmax(values)


def test_a_tile_of_next_to_nothing_does_not_show_its_own_maximum(explained):
    # Of a layer that is named, whose faint spots are not gated.
    rows = pq.read_table(explained(**BOTH, layers=("1",)).folder / "tiles.parquet").to_pylist()
    best = max(rows, key=lambda row: row["evidence_1"])
    middle = best["x"] + best["size"] / 2, best["y"] + best["size"] / 2
    assert max(abs(middle[0] - DISC[0]), abs(middle[1] - DISC[1])) < 112
    assert best["predicted"] == 1
    assert best["probability_1"] == best["predicted_probability"] > 0.9
    # It has a map, as there is a faint spot, but little of it counts.
    assert 0 < sorted(row["evidence_1"] for row in rows)[len(rows) // 4] < 0.1 * best["evidence_1"]


def test_the_table_tells_of_each_tile(done):
    table = pq.read_table(done / "tiles.parquet")
    assert table["tile"].to_pylist() == list(range(7 * 4))
    assert table["x"].to_pylist() == [112.0 * column for column in range(7)] * 4
    assert table["y"].to_pylist() == [112.0 * row for row in range(4) for _ in range(7)]
    assert set(table["size"].to_pylist()) == {224.0}
    sums = np.array(table["probability_0"]) + np.array(table["probability_1"])
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert table["error"].null_count == len(table)


def test_an_even_slide_has_an_even_map(tmp_path):
    (outcome,) = explain(
        [phantom(tmp_path / "even.tif", width=560, height=448, disc=None)], tmp_path, classes=["0"], layers=("1",)
    )
    values = maps(outcome.folder, 0)
    assert np.isfinite(values).all()
    assert values.min() > 0.8
    assert np.ptp(values) < 1e-4


def test_the_second_channel_is_the_probability_of_the_tiles_over_a_place(explained):
    outcome = explained(overlap=0.0)
    rows = pq.read_table(outcome.folder / "tiles.parquet").to_pylist()
    found = maps(outcome.folder, channel=1)
    for row in rows:
        left, top, side = (int(row[name]) // CELL for name in ("x", "y", "size"))
        of_tile = found[top : top + side, left : left + side]
        np.testing.assert_allclose(of_tile, row["probability_1"], rtol=1e-5)
    assert np.ptp([row["probability_1"] for row in rows]) > 0.5


def test_several_classes_take_one_forward(small, tmp_path, monkeypatch):
    batches = []
    model = green()
    monkeypatch.setattr(sys.modules["tests.slides.jobs"], "green", lambda: model)
    model.register_forward_hook(lambda module, given, came: batches.append(len(given[0])))
    ready = job.check(asked([small], tmp_path, **BOTH))
    batches.clear()
    (outcome,) = ready.execute(lambda *told: None)
    assert sum(batches) == outcome.tiles


def test_the_class_is_the_one_that_is_predicted_most_often(slide, explained):
    outcome = explained(classes=())
    assert outcome.names == ["class 0"]
    assert [path.name for path in outcome.folder.glob("map-*")] == ["map-0.ome.tif"]
    # The job that goes on has chosen already.
    (again,) = explain([slide], outcome.folder.parent, classes=[])
    assert (again.names, again.before) == (["class 0"], again.tiles)


def test_several_classes_are_those_of_one_each(explained, done):
    alone = explained(classes=())
    assert (alone.folder / "map-0.ome.tif").read_bytes() == (done / "map-0.ome.tif").read_bytes()


def test_pictures_of_the_strongest_tiles(done):
    said = json.loads((done / "summary.json").read_text())["classes"][0]
    assert (said["class"], said["map"]) == (1, "map-1.ome.tif")
    assert said["maximum"] == np.nanmax(maps(done))
    first, *others = said["strongest"]
    assert all(first["evidence"] >= other["evidence"] for other in others)
    places = np.array([[tile["x"], tile["y"]] for tile in said["strongest"]])
    apart = np.abs(places[:, None] - places).max(axis=-1) + 224 * np.eye(len(places))
    assert apart.min() >= 224  # none overlaps another
    with Image.open(done / first["picture"]) as picture:
        pair = np.asarray(picture)
    assert pair.shape == (224, 448, 3)
    tile, overlay = pair[:, :224].astype(int), pair[:, 224:].astype(int)
    y, x = int(DISC[1] - first["y"]), int(DISC[0] - first["x"])
    assert tile[y, x, 1] - tile[y, x, 0] > 100  # the disc
    changed = np.abs(overlay - tile).sum(axis=-1)
    assert changed[y, x] > 10 * changed[0, 0]
    assert sorted(path.name for path in (done / "strongest").glob("1-*")) == [
        f"1-{number:02d}.png" for number in range(1, len(places) + 1)
    ]


def test_the_map_lies_over_a_tile_where_it_lies_over_the_slide(tmp_path, monkeypatch):
    width, height, tile, stride = 517, 301, 100, 37
    plan = Plan(Fraction(1), 0.5, width, height, tile, stride, 13, 7, np.array([[3, 2], [12, 6]]))
    x = np.arange(65, dtype=np.float32) * CELL + CELL / 2  # in pixels: of a cell its middle
    y = np.arange(38, dtype=np.float32) * CELL + CELL / 2
    (tmp_path / "map").write_bytes((x + 1000 * y[:, None]).tobytes())
    drawn = []
    monkeypatch.setattr(strongest, "overlay", lambda maps, image: drawn.append(maps) or image.movedim(1, -1))
    pixels = np.zeros((tile, tile, 3), np.uint8)
    for index in range(2):
        strongest.drawn(plan, index, pixels, Raster(tmp_path / "map", 38, 65), 1e6)
    first = 1e6 * drawn[0][0].double().numpy()
    expected = (111 + np.arange(tile) + 0.5) + 1000 * (74 + np.arange(tile) + 0.5)[:, None]
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    assert drawn[1].shape == (1, tile, tile)  # beyond the slide there is nothing
    assert drawn[1][0, -1, -1] == 0


def test_ome_zarr_has_the_same_map(slide, done, tmp_path):
    (outcome,) = explain([slide], tmp_path, kind="ome-zarr")
    found = zarr.open_array(outcome.folder / "map-1.ome.zarr" / "0", mode="r")[:]
    assert np.array_equal(found, [maps(done), maps(done, channel=1)], equal_nan=True)


def test_one_bad_slide_costs_no_other_anything(slide, done, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    unscaled = phantom(tmp_path / "unscaled.tif", mpp=None)
    broken = phantom(tmp_path / "broken.tif", compression="jpeg")
    with tifffile.TiffFile(broken) as file:
        offset, count = file.pages[0].dataoffsets[17], file.pages[0].databytecounts[17]
    data = bytearray(broken.read_bytes())
    data[offset : offset + count] = bytes(count)
    broken.write_bytes(data)
    found = explain([bad, unscaled, broken, slide], tmp_path / "out", **BOTH)
    assert [outcome.error is None for outcome in found] == [False, False, False, True]
    assert "give --slide-mpp" in found[1].error
    assert "can't be decoded" in found[2].error
    assert contents(found[3].folder) == contents(done)


def test_a_slide_without_its_scale_takes_the_one_that_is_said(tmp_path):
    path = phantom(tmp_path / "slide.tif", mpp=None)
    (outcome,) = explain([path], tmp_path / "out", slide_mpp=0.25)
    x, y = peak(maps(outcome.folder))
    assert np.hypot(x * 2 * CELL - DISC[0], y * 2 * CELL - DISC[1]) < DISC[2] / 2


def test_slides_of_one_name_have_folders_of_their_own(slide, tmp_path):
    ready = job.check(asked([slide, tmp_path / ".." / slide.parent.name / slide.name, slide], tmp_path / "out"))
    assert [folder.name for folder in ready.folders] == ["phantom", "phantom-2", "phantom-3"]


def test_a_tile_that_cannot_be_explained_has_its_error_and_no_other(tmp_path):
    path = phantom(tmp_path / "slide.tif", width=560, height=448, disc=(280, 200, 130))
    (outcome,) = explain([path], tmp_path / "out", model="tests.slides.test_job:spoilt", batch_size=5)
    rows = pq.read_table(outcome.folder / "tiles.parquet").to_pylist()
    bad = [row for row in rows if row["error"] is not None]
    assert outcome.failed == len(bad) > 0
    assert all(np.hypot(row["x"] - 280, row["y"] - 200) < 140 for row in bad)
    assert all("finite" in row["error"] and row["evidence_1"] is None and row["predicted"] is None for row in bad)
    assert all(row["evidence_1"] is not None for row in rows if row["error"] is None)
    values = maps(outcome.folder)
    assert np.nanmax(values) > 0.5
    (again,) = explain([path], tmp_path / "out", model="tests.slides.test_job:spoilt", batch_size=5)
    assert again.failed == outcome.failed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overlap": 1.0}, "overlap: expected a share from 0"),
        ({"mpp": 0.0}, "mpp: expected micrometres"),
        ({"slide_mpp": float("nan")}, "slide_mpp: expected micrometres"),
        ({"classes": ["9"]}, "class: class 9 is out of range for 2 classes"),
        ({"tile": 8}, "tile: expected 16 pixels"),
        ({"kind": "tiff"}, "kind: expected one of ome-tiff, ome-zarr"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"workers": 0}, "workers: expected at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(slide, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        job.check(asked([slide], tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_a_slide_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no"):
        job.check(asked([tmp_path / "none.tif"], tmp_path))
    with pytest.raises(IsADirectoryError, match="is a folder"):
        job.check(asked([tmp_path], tmp_path))


def test_a_scale_that_the_slide_does_not_have_is_the_slides_error(small, tmp_path):
    (outcome,) = explain([small], tmp_path, mpp=0.1)
    assert "mpp: expected at least 0.5" in outcome.error


class Stopped(Exception):
    pass


def stopping(after):
    def progress(number, done, total):
        if done >= after:
            raise Stopped

    return progress


@pytest.mark.parametrize(("after", "kept"), [pytest.param(0, 0, marks=pytest.mark.long), (8, 0), (24, 16), (28, 28)])
def test_a_job_that_was_stopped_goes_on_to_the_same_results(slide, done, tmp_path, monkeypatch, after, kept):
    monkeypatch.setattr(work, "KEPT", 16)
    with pytest.raises(Stopped):
        explain([slide], tmp_path, **BOTH, progress=stopping(after))
    told = []
    (outcome,) = explain([slide], tmp_path, **BOTH, progress=lambda *each: told.append(each))
    assert outcome.before == told[0][1] == kept
    assert contents(outcome.folder) == contents(done)
    assert not [path for path in outcome.folder.rglob(".*") if path.is_file()]
    assert not (outcome.folder / "parts").exists()


def test_a_job_that_is_done_stays_as_it_is(slide, done):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file() and path.name != "job.lock"}
    (outcome,) = explain([slide], done.parent, **BOTH)
    assert (outcome.before, outcome.tiles, outcome.error) == (28, 28, None)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overlap": 0.25}, "overlap was 0.5, is 0.25"),
        pytest.param({"classes": ["0"]}, "class was", marks=pytest.mark.long),
        pytest.param({"batch_size": 4}, "batch_size was 8, is 4", marks=pytest.mark.long),
        pytest.param({"kind": "ome-zarr"}, "format was ome-tiff, is ome-zarr", marks=pytest.mark.long),
        ({"model": "tests.slides.test_job:other"}, "the model or its weights have changed"),
    ],
)
def test_something_else_is_refused_and_costs_nothing(slide, done, options, said):
    before = contents(done)
    (outcome,) = explain([slide], done.parent, **{**BOTH, **options})
    assert said in outcome.error
    assert "--restart" in outcome.error
    assert contents(done) == before


def other():
    network = spoilt()
    network[1].bias.data += 0.1
    return network


def test_another_slide_under_the_same_name_is_refused(small, tmp_path):
    path = tmp_path / "slide.tif"
    path.write_bytes(small.read_bytes())
    with pytest.raises(Stopped):
        explain([path], tmp_path / "out", progress=stopping(0))
    os.utime(path, ns=(1, 1))
    (outcome,) = explain([path], tmp_path / "out")
    assert "slide was ['slide.tif'" in outcome.error
    (outcome,) = explain([path], tmp_path / "out", restart=True)
    assert (outcome.error, outcome.before) == (None, 0)


def test_restart_leaves_what_an_undisturbed_job_leaves(slide, done, tmp_path):
    explain([slide], tmp_path, classes=["0"], kind="ome-zarr", overlap=0.2)
    (outcome,) = explain([slide], tmp_path, **BOTH, restart=True)
    assert contents(outcome.folder) == contents(done)


def test_results_of_no_job_are_left_alone(small, tmp_path):
    folder = tmp_path / small.stem
    folder.mkdir()
    (folder / "summary.json").write_text("mine")
    for restart in (False, True):
        (outcome,) = explain([small], tmp_path, restart=restart)
        assert "has summary.json of no job" in outcome.error
    assert contents(folder) == {"summary.json": b"mine", "job.lock": b""}


def test_a_reader_that_dies_is_that_slides_error_and_what_is_done_is_kept(slide, done, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "KEPT", 8)
    monkeypatch.setattr(workers, "REGIONS_AHEAD", 4)
    ready = job.check(asked([slide], tmp_path, **BOTH))

    def killing(number, done, total):
        if done == 16:
            # Other tests' processes, such as those of a Ray cluster, are children of this one, too.
            for child in psutil.Process().children():
                if process._MODULE in child.cmdline():
                    child.kill()

    (outcome,) = ready.execute(killing)
    assert "was ended by the signal 9" in outcome.error
    (outcome,) = ready.execute(lambda *told: None)
    assert (outcome.error, outcome.before) == (None, 16)
    assert contents(outcome.folder) == contents(done)
