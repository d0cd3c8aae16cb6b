"""Where a run's images come from: folders, lists, tables, tars and any iterable; what is refused of them."""

import csv
import os
import tarfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cfcam_gpu import CFCAM, pipelines
from cfcam_gpu.pipelines import Photographs, store

from ..albums import small
from ..pipeline_jobs import TINY, contents, errors, explain, images, maps, photographs, rows
from ..source_images import archive, picture


@pytest.fixture
def source(tmp_path):
    return photographs(tmp_path / "source", 10)


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
    with pytest.raises(
        ValueError, match=r"source: line 2 of .*table\.csv: target: no class is called 'Cat'; nearest: car"
    ):
        Photographs(path, TINY, class_names=["dog", "car"])


def test_a_webdataset_is_what_its_files_are(tmp_path):
    photographs(tmp_path / "source", 5)
    data = [(tmp_path / "source" / f"{b:05d}.png").read_bytes() for b in range(5)]
    tars = tmp_path / "tars"
    tars.mkdir()
    samples = [{"png": data[b], "cls": b"%d" % b, "json": b"{}"} for b in range(3)]
    archive(tars / "a-0.tar", [(f"x/{b}.{kind}", part) for b in range(3) for kind, part in samples[b].items()])
    archive(tars / "a-1.tar", [("y.json", b"{}"), *((f"{b}.png", data[b]) for b in (3, 4))])
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
    archive(path, [(f"{b}.png", picture(b)) for b in range(5)])
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "does not exist; expected a folder, a .txt"),
        ("a-{0..2}.tar", r"a-0\.tar.*does not exist"),
        ("bare", "no images in"),
        ("empty.txt", "no images in"),
        ("columns.csv", "expected a column 'file', 'file_name', 'image' in .*columns.csv, .*; got path, target"),
        ("blank.csv", "line 3 of .* names no file"),
        ("target.csv", "line 2 of .*target.csv: target: class 7 is out of range for 5 classes"),
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
        with pytest.raises(store.ChangedError, match=r"dataset: it has changed|is another one"):
            pipelines.run(explainer, (batch for batch in other), tmp_path / "out", **options)
        assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (5, {}, "dataset: expected Photographs, a DataLoader or an iterable; got int"),
        ([], {}, "dataset: expected images; it has none"),
        (["a.png"], {}, r"dataset: expected tensors \(C, H, W\)"),
        ([(images(2), [1, 2.7])], {}, "dataset: target: expected a class index or name; got 2.7, which is no integer"),
        ([torch.zeros(2, 2)], {}, r"got shape \(2, 2\)"),
        ([(images(2), [1])], {}, "dataset: expected 2 targets"),
        ([(images(2), [1, 1], ["a"])], {}, "dataset: expected 2 names"),
        ([images(2), torch.rand(1, 3, 40, 40)], {}, r"dataset: expected images of one size, \(3, 32, 32\)"),
        (DataLoader(TensorDataset(images(2)), shuffle=True), {}, "RandomSampler, which shuffles"),
        ([images(2)], {"batch_size": 0}, "batch_size: expected at least 1; got 0"),
        ([images(2)], {"batch_size": 4, "shard_size": 6}, "shard_size: expected a multiple of batch_size, 4; got 6"),
        ([images(2)], {"dtype": "int8"}, "dtype: expected one of float16, float32; got 'int8'"),
        ([images(2)], {"overlays": "gif"}, "overlays: expected one of jpg, png; got 'gif'"),
        (
            [images(2)],
            {"target": "cat"},
            "target: expected a class index, as the model has no names of its .*; got 'cat'",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused(tmp_path, dataset, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pipelines.run(CFCAM(small().eval(), "1"), dataset, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "maps.zarr").exists()


def sources(path):
    return [(item.source, item.target) for item in Photographs(path, TINY).items]


def test_names_of_a_list_or_table_are_taken_as_they_are(tmp_path):
    names = ["a\u2028b.png", "tab\tand\x0cfeed.png", "caf\udce9.png", " é.png"]
    data = [name.encode(errors="surrogateescape") for name in names]
    for bom in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "list.txt").write_bytes(bom + b"\r\n".join(data) + b"\n")
        assert sources(tmp_path / "list.txt") == [(name, None) for name in names]
        rows = b"".join(b'"%s", %d\n' % (name, k) for k, name in enumerate(data))
        (tmp_path / "table.csv").write_bytes(bom + b"file , target\n" + rows)
        assert sources(tmp_path / "table.csv") == [(name, k) for k, name in enumerate(names)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b.png,1", r"line 2 of .*table\.csv has 3 values for 2 columns"),
        ('a.png,1\n"b.png,2\nc.png,3', r"line 4 of .*table\.csv: unexpected end of data"),
        (f"{'a' * 200_000}.png,1", r"line 2 of .*table\.csv: field larger than field limit"),
        (
            "a.png,cat",
            r"line 2 of .*table\.csv: target: expected a class index, as no class names are given; got 'cat'",
        ),
        ("a.png,-2", r"line 2 of .*table\.csv: target: expected a class index; got -2"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(f"file,target\n{text}\n")
    with pytest.raises(ValueError, match=f"source: {message}"):
        Photographs(tmp_path / "table.csv", TINY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_an_error_in_a_folder_and_in_a_list(source, tmp_path):
    os.mkfifo(source / "pipe.png")
    (source / "loop.png").symlink_to("loop.png")
    (source / "nowhere.png").symlink_to("nothing.png")
    (source / "around").symlink_to(source)
    (source / "around.png").symlink_to(source)
    assert explain(source, tmp_path / "all").failed == 3
    assert {name: error for name, error in errors(tmp_path / "all").items() if error} == {
        "loop.png": "Too many levels of symbolic links",
        "nowhere.png": "No such file or directory",
        "pipe.png": "not a regular file",
    }
    (source / "list.txt").write_text("pipe.png\nloop.png\n/dev/zero\n00000.png\naround\nnul\0.png\n")
    assert explain(source / "list.txt", tmp_path / "out").failed == 5
    assert list(errors(tmp_path / "out").values()) == [
        "not a regular file",
        "Too many levels of symbolic links",
        "not a regular file",
        None,
        "not a regular file",
        "embedded null byte",
    ]
