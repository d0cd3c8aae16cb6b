"""A whole data set explained into a folder: what is in it, what becomes of bad images, what is refused."""

import csv
import io
import logging
import multiprocessing
import sys
import tarfile
import weakref
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
import zarr
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cfcam_gpu import CFCAM, photos, pipelines
from cfcam_gpu.pipelines import Photographs, bulk, store
from cfcam_gpu.pipelines.batches import BatchExplainer
from cfcam_gpu.pipelines.rows import COLUMNS

from .albums import small
from .pipeline_jobs import TINY, contents, explain, photographs


def maps(out):
    return zarr.open_array(out / "maps.zarr", mode="r")


def rows(out):
    return pq.read_table(out / "manifest.parquet").to_pylist()


def errors(out):
    return {row["source"]: row["error"] for row in rows(out)}


@pytest.fixture
def source(tmp_path):
    return photographs(tmp_path / "source", 10)


def images(count, *, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_maps_and_rows_are_the_librarys(source, tmp_path):
    Image.new("RGB", (50, 40)).save(source / "wide.png")
    found = explain(
        source, tmp_path / "out", batch_size=4, shard_size=4, dtype="float32", overlays="png", class_names=list("abcde")
    )
    assert found == pipelines.Summary(tmp_path / "out", images=11, failed=0, before=0)
    paths = [*sorted(source.glob("0*.png")), source / "wide.png"]
    pixels = torch.stack([TINY.pixels(photos.read(path)) for path in paths])
    # The same batches: to the last bit.
    library = [CFCAM(small().eval(), "1")(TINY.normalize(batch)) for batch in pixels.split(4)]
    array = maps(tmp_path / "out")
    assert (array.shape, array.dtype, array.metadata.zarr_format) == ((11, 32, 32), np.float32, 3)
    np.testing.assert_array_equal(array[:], torch.cat([result.maps for result in library]))
    overlays = torch.cat([result.overlay(batch) for result, batch in zip(library, pixels.split(4))])
    found = rows(tmp_path / "out")
    assert [row["source"] for row in found] == [path.name for path in paths]
    for b, row in enumerate(found):
        result, inside = library[b // 4], b % 4
        assert list(row) == list(COLUMNS)
        assert row["index"] == b
        assert (row["width"], row["height"]) == ((50, 40) if b == 10 else (36, 36))
        assert row["target"] == result.target[inside]
        assert row["class"] == "abcde"[row["target"]]
        assert row["probability"] == pytest.approx(result.logits[inside].softmax(0)[row["target"]].item())
        assert row["empty"] is bool(result.empty[inside])
        labels = result.labels[inside]
        assert row["clusters"] == len(set(labels[labels >= 0].tolist()))
        for label, kind in ((-1, "noise"), (-2, "dominant"), (-3, "dead")):
            assert row[kind] == (labels == label).sum()
        assert row["error"] is None
        np.testing.assert_array_equal(photos.read(tmp_path / "out" / row["overlay"]), overlays[b])


def test_float16_is_the_default_and_loses_little(source, tmp_path):
    explain(source, tmp_path / "half")
    explain(source, tmp_path / "whole", dtype="float32")
    assert maps(tmp_path / "half").dtype == np.float16
    np.testing.assert_allclose(maps(tmp_path / "half")[:], maps(tmp_path / "whole")[:], atol=5e-4)


def test_the_same_again_does_nothing(source, tmp_path, monkeypatch):
    explain(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(bulk, "BatchExplainer", lambda *args, **options: pytest.fail("explained again"))
    assert explain(source, tmp_path / "out") == pipelines.Summary(tmp_path / "out", images=10, failed=0, before=10)
    assert contents(tmp_path / "out") == before


def bad_files(folder):
    """Name to what the error says; None for those that can be read."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:1500])
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    Image.new("1", (20_000, 10_000)).save(folder / "gigantic.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "floats.tif")
    Image.fromarray(np.full((40, 40), 30_000, np.uint16)).save(folder / "16-bit.png")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    noise.save(folder / "animated.gif", save_all=True, append_images=[noise.transpose(Image.Transpose.ROTATE_90)])
    return {
        "truncated.jpg": "truncated",
        "corrupt.png": "damaged",
        "empty.png": "not an image",
        "text.png": "not an image",
        "gigantic.png": "more than Pillow's limit",
        "floats.tif": "floating-point",
        "16-bit.png": None,
        "cmyk.jpg": None,
        "animated.gif": None,
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_bad_file_is_a_row_with_its_reason(source, tmp_path, workers):
    wanted = bad_files(source)
    found = explain(source, tmp_path / "out", batch_size=4, workers=workers, overlays="jpg")
    assert (found.images, found.failed) == (19, sum(reason is not None for reason in wanted.values()))
    said = errors(tmp_path / "out")
    assert len(said) == len(rows(tmp_path / "out"))
    for name, error in said.items():
        reason = wanted.get(name)
        assert (error is None) == (reason is None), name
        assert reason is None or reason in error
    for row, found in zip(rows(tmp_path / "out"), maps(tmp_path / "out")[:]):
        bad = row["error"] is not None
        assert np.isnan(found).all() == bad
        assert np.isnan(found).any() == bad
        assert all((row[name] is None) == bad for name in ("target", "class", "probability", "empty", "overlay"))


def test_a_bad_image_changes_no_bit_of_its_neighbours(source, tmp_path):
    explain(source, tmp_path / "good", batch_size=5, shard_size=5)
    (source / "00003.png").write_bytes(b"no image")
    model = narrow(8)
    explain(source, tmp_path / "bad", model=model, batch_size=5, shard_size=5)
    assert model[0][0].sizes == [5, 5], "another batch size may round otherwise"
    rest = [b for b in range(10) if b != 3]
    np.testing.assert_array_equal(maps(tmp_path / "bad")[:][rest], maps(tmp_path / "good")[:][rest])
    assert [row for row in rows(tmp_path / "bad") if row["index"] != 3] == [
        row for row in rows(tmp_path / "good") if row["index"] != 3
    ]


class Spoilt(nn.Module):
    """Not a number on an image that is white in its middle."""

    def forward(self, x):
        return torch.where(x[:, :, 10:20, 10:20].amin(dim=(1, 2, 3), keepdim=True) > 0.99, torch.nan, x)


def test_an_image_that_spoils_its_batch_fails_alone(source, tmp_path):
    explain(source, tmp_path / "good", batch_size=5, shard_size=5)
    Image.new("RGB", (36, 36), "white").save(source / "00003.png")
    spoilt = nn.Sequential(nn.Sequential(Spoilt(), small()[0]), *small()[1:]).eval()
    assert explain(source, tmp_path / "bad", model=spoilt, batch_size=5, shard_size=5).failed == 1
    assert "expected finite numbers" in errors(tmp_path / "bad")["00003.png"]
    rest = [b for b in range(10) if b != 3]
    np.testing.assert_array_equal(maps(tmp_path / "bad")[:][rest], maps(tmp_path / "good")[:][rest])


def test_where_all_fail_the_array_is_there(tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "source" / name).touch()
    assert explain(tmp_path / "source", tmp_path / "out").failed == 2
    assert maps(tmp_path / "out").shape == (2, 32, 32)
    assert np.isnan(maps(tmp_path / "out")[:]).all()


class Narrow(nn.Module):
    """A device that holds so many images at once, and after so many batches none."""

    def __init__(self, room, batches):
        super().__init__()
        self.room = room
        self.batches = batches
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.room or len(self.sizes) > self.batches:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return x


def narrow(room, batches=1000):
    return nn.Sequential(nn.Sequential(Narrow(room, batches), small()[0]), *small()[1:]).eval()


def test_out_of_memory_halves_the_batch_and_goes_on(source, tmp_path, caplog):
    explain(source, tmp_path / "wide", batch_size=8, shard_size=8)
    model = narrow(3)
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        assert explain(source, tmp_path / "out", model=model, batch_size=8, shard_size=8).failed == 0
    assert model[0][0].sizes == [8, 4, 2, 2, 2, 2, 2], "the second batch isn't tried whole again"
    assert "a batch of 8 does not fit: going on with 4" in caplog.text
    np.testing.assert_allclose(maps(tmp_path / "out")[:], maps(tmp_path / "wide")[:], atol=2e-3)
    assert [row["source"] for row in rows(tmp_path / "out")] == [row["source"] for row in rows(tmp_path / "wide")]


def test_no_room_for_a_single_image_stops_a_run_that_goes_on_later(source, tmp_path):
    options = {"batch_size": 2, "shard_size": 2}
    explain(source, tmp_path / "whole", model=narrow(8), **options)
    with pytest.raises(RuntimeError, match="out of memory with a single image"):
        explain(source, tmp_path / "out", model=narrow(8, batches=3), **options)
    assert explain(source, tmp_path / "out", model=narrow(8), **options).before == 6
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_targets_of_a_batch_may_be_given_for_some():
    x, model = images(4), small().eval()
    explainer = CFCAM(model, "1")
    predicted = explainer(x).target.tolist()
    found = BatchExplainer(explainer, dtype=torch.float32)(x, [None, 2, None, 9])
    assert found.target.tolist()[:3] == [predicted[0], 2, predicted[2]]
    assert found.errors[:3] == [None] * 3
    assert "class 9 is out of range" in found.errors[3]
    expected = explainer(x, [predicted[0], 2, predicted[2], predicted[0]]).maps
    torch.testing.assert_close(found.maps[:3], expected[:3], rtol=0, atol=0)


# Sources


def test_a_list_keeps_its_order_and_names_what_is_missing(source, tmp_path):
    (source / "list.txt").write_text("00003.png\n\n00001.png\nnowhere.png\n00003.png\n")
    assert explain(source / "list.txt", tmp_path / "out").failed == 1
    assert [row["source"] for row in rows(tmp_path / "out")] == ["00003.png", "00001.png", "nowhere.png", "00003.png"]
    assert errors(tmp_path / "out")["nowhere.png"] == "No such file or directory"


def table(path, *lines):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def test_a_table_gives_targets(source, tmp_path):
    path = table(source / "table.csv", ("target", "file"), (3, "00000.png"), ("", "00001.png"), (4, "00002.png"))
    explain(path, tmp_path / "out")
    found = [row["target"] for row in rows(tmp_path / "out")]
    assert found[0] == 3
    assert found[2] == 4
    explain(path, tmp_path / "predicted", target="predicted")
    predicted = [row["target"] for row in rows(tmp_path / "predicted")]
    assert found[1] == predicted[1]
    assert found != predicted
    explain(path, tmp_path / "one", target=2)
    assert [row["target"] for row in rows(tmp_path / "one")] == [2, 2, 2]


def test_targets_of_a_table_may_be_names(source):
    path = table(source / "table.csv", ("file", "target"), ("00000.png", "Cat"))
    assert Photographs(path, TINY, class_names=["dog", "cat"]).items[0].target == 1
    with pytest.raises(ValueError, match=r"source: of 00000.png: target: no class is called 'Cat'; nearest: car"):
        Photographs(path, TINY, class_names=["dog", "car"])


def wds(path, samples):
    with webdataset.TarWriter(str(path)) as tar:
        for sample in samples:
            tar.write(sample)


def png(seed=0):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (36, 36, 3), np.uint8)).save(file, format="PNG")
    return file.getvalue()


def test_a_webdataset_is_what_its_files_are(tmp_path):
    photographs(tmp_path / "source", 5)
    data = [(tmp_path / "source" / f"{b:05d}.png").read_bytes() for b in range(5)]
    tars = tmp_path / "tars"
    tars.mkdir()
    wds(tars / "a-0.tar", [{"__key__": f"x/{b}", "png": data[b], "cls": b, "json": {}} for b in range(3)])
    wds(tars / "a-1.tar", [{"__key__": "y", "json": {}}, *({"__key__": str(b), "png": data[b]} for b in (3, 4))])
    explain(tmp_path / "source", tmp_path / "files")
    for workers in (0, 2):
        out = tmp_path / str(workers)
        explain(f"{tars}/a-{{0..1}}.tar", out, target="predicted", batch_size=4, workers=workers)
        assert [row["source"] for row in rows(out)] == [
            *(f"a-0.tar/x/{b}.png" for b in range(3)),
            "a-1.tar/y.json",
            "a-1.tar/3.png",
            "a-1.tar/4.png",
        ]
        assert [row["error"] for row in rows(out)] == [None] * 3 + ["no image among json"] + [None] * 2
        np.testing.assert_allclose(maps(out)[:][[0, 1, 2, 4, 5]], maps(tmp_path / "files")[:], atol=2e-3)
    explain(f"{tars}/a-0.tar", tmp_path / "targets")
    assert [row["target"] for row in rows(tmp_path / "targets")] == [0, 1, 2]


@pytest.mark.parametrize("where", ["header", "middle", "gzip", "empty"])
def test_a_damaged_tar_is_refused_before_any_work(tmp_path, where):
    path = tmp_path / "a.tar"
    wds(path, [{"__key__": str(b), "png": png(b)} for b in range(5)])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    if where == "header":
        data[third.offset : third.offset + 100] = b"\xff" * 100
    elif where == "middle":
        del data[third.offset_data + 100 :]
    elif where == "gzip":
        data = b"\x1f\x8b" + data
    else:
        data = b""
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"source: .*a\.tar"):
        Photographs(path, TINY)


def test_without_webdataset_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    with pytest.raises(ModuleNotFoundError, match=r"webdataset is not installed; pip install 'cfcam-gpu\[pipelines\]'"):
        Photographs(tmp_path / "a.tar", TINY)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "does not exist; expected a folder, a .txt"),
        ("a-{0..2}.tar", r"a-0\.tar.*does not exist"),
        ("bare", "no images in"),
        ("empty.txt", "no images in"),
        ("columns.csv", "expected a column 'file' in .*; got path, target"),
        ("blank.csv", "line 3 of .* names no file"),
        ("target.csv", "of a.png: target: class 7 is out of range for 5 classes"),
        ("a.docx", "expected a folder, a .txt"),
    ],
)
def test_a_source_that_can_not_be_meant_is_refused(tmp_path, name, message):
    (tmp_path / "bare").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.docx").touch()
    table(tmp_path / "columns.csv", ("path", "target"), ("a.png", 1))
    table(tmp_path / "blank.csv", ("file", "target"), ("a.png", 1), ("", 1))
    table(tmp_path / "target.csv", ("file", "target"), ("a.png", 7))
    with pytest.raises((ValueError, FileNotFoundError), match=f"source: .*{message}"):
        Photographs(tmp_path / name, TINY, class_names=[f"class {k}" for k in range(5)])


def test_file_names_that_are_no_text_are_no_fault(source, tmp_path):
    (source / "00000.png").rename(source / "b\udcff.png")
    explain(source, tmp_path / "out")
    assert [row["source"] for row in rows(tmp_path / "out")][-1] == "b?.png"


# Any iterable


def test_any_iterable_gives_the_same(tmp_path):
    x = images(10)
    explainer = CFCAM(small().eval(), "1")
    datasets = {
        "images": list(x),
        "batches": list(x.split(3)),
        "generator": (batch for batch in x.split(4)),
        "loader": DataLoader(TensorDataset(x), batch_size=4),
        "workers": DataLoader(TensorDataset(x), batch_size=4, num_workers=1),
    }
    for name, dataset in datasets.items():
        pipelines.run(explainer, dataset, tmp_path / name, batch_size=4, shard_size=8, dtype="float32")
    expected = torch.cat([explainer(batch).maps for batch in x.split(4)])
    np.testing.assert_array_equal(maps(tmp_path / "images")[:], expected)
    assert [row["source"] for row in rows(tmp_path / "images")] == [str(b) for b in range(10)]
    for name in datasets:
        found, wanted = contents(tmp_path / name), contents(tmp_path / "images")
        assert {**found, "job.json": None} == {**wanted, "job.json": None}, name


def test_an_iterable_may_give_targets_and_names(tmp_path):
    explainer = CFCAM(small().eval(), "1")
    labels = torch.tensor([0, 1, 2, 3, 4])
    pipelines.run(explainer, [(images(5), labels, list("vwxyz"))], tmp_path / "batch")
    pipelines.run(explainer, zip(images(5), [0, 1, None, 3, 4], "vwxyz"), tmp_path / "each")
    assert [row["target"] for row in rows(tmp_path / "batch")] == [0, 1, 2, 3, 4]
    assert [row["source"] for row in rows(tmp_path / "batch")] == list("vwxyz")
    assert [row["target"] for row in rows(tmp_path / "each")][3:] == [3, 4]


def test_an_iterable_that_stopped_goes_on_and_is_seen_to_be_the_same(tmp_path):
    explainer = CFCAM(small().eval(), "1")
    options = {"batch_size": 2, "shard_size": 4}

    def broken(count, seed=0):
        yield from images(10, seed=seed)[:count]
        raise OSError("the network is down")

    pipelines.run(explainer, list(images(10)), tmp_path / "whole", **options)
    for count in range(2, 10, 2):
        out = tmp_path / str(count)
        with pytest.raises(OSError, match="network"):
            pipelines.run(explainer, broken(count), out, **options)
        # It is a generator the first time.
        (out / "job.json").write_bytes((tmp_path / "whole" / "job.json").read_bytes())
        found = pipelines.run(explainer, list(images(10)), out, **options)
        assert found.before == count // 4 * 4
        assert contents(out) == contents(tmp_path / "whole")
    with pytest.raises(OSError, match="network"):
        pipelines.run(explainer, broken(9), tmp_path / "out", **options)
    before = contents(tmp_path / "out")
    for other in (images(10, seed=1), images(10)[:6], images(10)[:8].flip(0), images(2)):
        with pytest.raises(store.ChangedError, match="dataset: it has changed"):
            pipelines.run(explainer, iter(other), tmp_path / "out", **options)
        assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (5, {}, "dataset: expected Photographs, a DataLoader or an iterable; got int"),
        ([], {}, "dataset: expected images; it has none"),
        (["a.png"], {}, r"dataset: expected tensors \(C, H, W\)"),
        ([torch.zeros(2, 2)], {}, r"got shape \(2, 2\)"),
        ([(images(2), [1])], {}, "dataset: expected 2 targets"),
        ([(images(2), [1, 1], ["a"])], {}, "dataset: expected 2 names"),
        ([images(2), torch.rand(1, 3, 40, 40)], {}, r"dataset: expected images of one size, \(3, 32, 32\)"),
        (DataLoader(TensorDataset(images(2)), shuffle=True), {}, "shuffle=True"),
        ([images(2)], {"batch_size": 0}, "batch_size: expected at least 1; got 0"),
        ([images(2)], {"batch_size": 4, "shard_size": 6}, "shard_size: expected a multiple of batch_size, 4; got 6"),
        ([images(2)], {"dtype": "int8"}, "dtype: expected one of float16, float32; got 'int8'"),
        ([images(2)], {"overlays": "gif"}, "overlays: expected one of jpg, png; got 'gif'"),
        ([images(2)], {"target": "cat"}, "target: expected None, a class index or 'predicted'; got 'cat'"),
    ],
)
def test_what_can_not_be_meant_is_refused(tmp_path, dataset, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pipelines.run(CFCAM(small().eval(), "1"), dataset, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "maps.zarr").exists()


# What has changed since


def test_a_job_of_which_something_else_is_asked_is_refused(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out, batch_size=4)
    before = contents(out)
    other = small().eval()
    nn.init.zeros_(other[0].bias)
    wanted = replace(TINY, mean=(0.4, 0.5, 0.5))
    asked = {
        "batch_size was 4, is 8": lambda: explain(source, out, batch_size=8, shard_size=256),
        "dtype was float16, is float32": lambda: explain(source, out, batch_size=4, dtype="float32"),
        "target was None, is 3": lambda: explain(source, out, batch_size=4, target=3),
        "the model or its weights have changed": lambda: explain(source, out, batch_size=4, model=other),
        "the images' names, sizes, times or targets": lambda: pipelines.run(
            CFCAM(small().eval(), "1"), Photographs(source, wanted), out, batch_size=4
        ),
    }
    for message, again in asked.items():
        with pytest.raises(store.ChangedError, match=message):
            again()
    assert contents(out) == before
    assert explain(source, out, batch_size=4, target=3, restart=True).before == 0
    assert {row["target"] for row in rows(out)} == {3}


@pytest.mark.parametrize("change", ["gone", "new", "renamed", "written", "touched"])
def test_a_source_that_changed_is_noticed(source, tmp_path, change):
    out = tmp_path / "out"
    explain(source, out)
    first = source / "00000.png"
    if change == "gone":
        first.unlink()
    elif change == "new":
        (source / "new.png").write_bytes(first.read_bytes())
    elif change == "renamed":
        first.rename(source / "0000.png")
    elif change == "written":
        first.write_bytes(first.read_bytes() + b" ")
    else:
        first.touch()
    with pytest.raises(store.ChangedError, match="the images' names, sizes, times or targets have changed"):
        explain(source, out)


def test_results_of_no_job_are_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.parquet").write_text("mine")
    for restart in (False, True):
        with pytest.raises(FileExistsError, match=r"has manifest\.parquet of no job"):
            explain(source, tmp_path / "out", restart=restart)
    assert contents(tmp_path / "out")["manifest.parquet"] == b"mine"


def test_a_restart_leaves_what_is_not_its_own(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out)
    (out / "notes.txt").write_text("mine")
    explain(source, out, target=1, restart=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_two_processes_do_not_write_to_one_folder(source, tmp_path):
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    asked = {"source": "", "shard_size": 8, "pictures": None, "restart": False}

    def other():
        try:
            with store.opened(tmp_path / "out", {}, **asked):
                writer.send("in")
        except FileExistsError as error:
            writer.send(str(error))

    with store.opened(tmp_path / "out", {}, **asked):
        process = context.Process(target=other)
        process.start()
        process.join()
    assert "another process is writing to" in reader.recv()


@pytest.mark.parametrize("package", ["zarr", "pyarrow"])
def test_without_the_extra_the_error_names_it(source, tmp_path, monkeypatch, package):
    find = bulk.find_spec
    monkeypatch.setattr(bulk, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ModuleNotFoundError, match=rf"{package} not installed; pip install 'cfcam-gpu\[pipelines\]'"):
        explain(source, tmp_path / "out")


def test_memory_does_not_grow_with_the_images(tmp_path):
    """What is held is a few batches and a shard: no tensor of a batch outlives the next few."""
    held = []

    def watched():
        for _ in range(30):
            batch = images(8)
            held.append(weakref.ref(batch))
            yield batch

    alive = []

    def progress(done, total):
        alive.append(sum(ref() is not None for ref in held))

    pipelines.run(
        CFCAM(small().eval(), "1"), watched(), tmp_path / "out", batch_size=8, shard_size=8, progress=progress
    )
    assert len(held) == 30
    assert max(alive) < 12
