"""Tables as sources: CSV, TSV, JSON lines, Parquet, Arrow, and what Hugging Face's ``datasets`` writes."""

import gzip
import json
import pickle

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from cfcam_gpu.pipelines import Photographs

from ..pipeline_jobs import TINY
from ..source_images import archive, picture, seen


@pytest.fixture
def folder(tmp_path):
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    return tmp_path


def test_separated_values_may_be_packed_and_columns_named(folder):
    (folder / "a.tsv").write_text("id\tpicture\tlabel\n7\t1.png\t3.0\n8\t0.png\t\n9\t2.png\tNaN\n")
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"file,target\n1.png,3\n0.png,\n2.png,-1\n"))
    expected = [("1.png", 1, 3), ("0.png", 0, None), ("2.png", 2, None)]
    assert seen(folder / "a.tsv", image_column="picture", target_column="label") == expected
    assert seen(folder / "a.csv.gz") == expected
    for options, message in (
        ({}, r"source: expected a column 'file', 'file_name', 'image' in .*a\.tsv.*; got id, picture, label"),
        ({"image_column": "x"}, r"image_column: expected a column of .*a\.tsv: id, picture, label; got 'x'"),
        ({"image_column": "picture", "target_column": "x"}, r"target_column: expected a column of .*a\.tsv"),
    ):
        with pytest.raises(ValueError, match=message):
            Photographs(folder / "a.tsv", TINY, **options)


def test_json_lines(folder):
    rows = [{"file_name": "1.png", "target": 2}, {"file_name": "0.png"}, {"file_name": "2.png", "target": None}]
    (folder / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert seen(folder / "a.jsonl") == [("1.png", 1, 2), ("0.png", 0, None), ("2.png", 2, None)]
    assert seen(folder / "a.jsonl", target_column="target") == seen(folder / "a.jsonl")
    with pytest.raises(ValueError, match=r"target_column: expected a column of .*a\.jsonl: file_name, target; got 'x'"):
        Photographs(folder / "a.jsonl", TINY, target_column="x")


def test_another_column_is_not_read_where_the_named_one_is_absent(folder):
    rows = [{"file": "1.png", "label": 3}, {"file": "0.png", "target": 2}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert seen(folder / "a.jsonl", target_column="label") == [("1.png", 1, 3), ("0.png", 0, None)]


@pytest.mark.parametrize("name", ["", "0.png", "a.tar", "a.txt", "*.png"])
@pytest.mark.parametrize("option", ["image_column", "target_column"])
def test_a_column_of_what_has_none_is_refused(folder, name, option):
    archive(folder / "a.tar", [("0.png", picture(0))])
    (folder / "a.txt").write_text("0.png\n")
    with pytest.raises(ValueError, match=f"{option}: expected none, as .* is no table with columns; got 'x'"):
        Photographs(folder / name, TINY, **{option: "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file": "a.png"}\n{"file"', r"line 2 of .*a\.ndjson is no JSON"),
        ('["a.png"]', r"line 1 of .*a\.ndjson: expected an object \{\.\.\.\}; got \[\"a\.png\"\]"),
        ('{"name": "a.png"}', r"expected a column 'file', 'file_name', 'image' in line 1 of .*; got name"),
        ('{"file": null}', r"line 1 of .*a\.ndjson names no file"),
        ('{"file": "a.png", "target": [1]}', r"line 1 of .*: target: expected a class index or name; got \[1\]"),
        ('{"file": "a.png", "target": 1.5}', r"line 1 of .*: target: .*got 1\.5, which is no integer"),
    ],
)
def test_json_lines_that_would_be_misread_are_refused(tmp_path, text, message):
    (tmp_path / "a.ndjson").write_text(text)
    with pytest.raises(ValueError, match=f"source: .*{message}"):
        Photographs(tmp_path / "a.ndjson", TINY)


@pytest.mark.parametrize(("head", "name"), [("file,target,file", "file"), ("file,target, target", "target")])
def test_two_columns_of_one_name_are_refused(folder, head, name):
    (folder / "a.csv").write_text(f"{head}\n1.png,3,2\n")
    with pytest.raises(ValueError, match=f"source: expected one column '{name}' in .*a.csv; got 2"):
        Photographs(folder / "a.csv", TINY)
    (folder / "a.csv").write_text("file,note,note\n1.png,3,2\n")
    assert seen(folder / "a.csv") == [("1.png", 1, None)]


def test_a_column_of_labels_is_not_taken_for_one_of_targets_without_a_word(folder):
    (folder / "a.csv").write_text("file,label\n1.png,3\n")
    photographs = Photographs(folder / "a.csv", TINY)
    assert seen(photographs) == [("1.png", 1, None)]
    (note,) = photographs.notes
    assert "the column label of" in note
    assert "--target-column label" in note
    assert Photographs(folder / "a.csv", TINY, own_targets=False).notes == []


def structs(seeds):
    return pa.array([None if seed is None else {"bytes": picture(seed), "path": f"{seed}.png"} for seed in seeds])


def written(path, table, rows=2):
    """A table in groups of rows, in the form that the name says."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, row_group_size=rows)
    elif path.suffix == ".feather":
        pa.feather.write_feather(table, path, chunksize=rows)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_columns_of_images(folder, name):
    targets = pa.array([3, None, 1, 0, -1])
    cells = {
        "struct": structs([1, 0, None, 3, 2]),
        "binary": pa.array([picture(1), picture(0), None, picture(3), picture(2)]),
        "large": pa.array([picture(1), picture(0), None, picture(3), picture(2)], pa.large_binary()),
        "paths": pa.array([{"bytes": None, "path": path} for path in ("1.png", "0.png", None, "3.png", "2.png")]),
    }
    cells["paths"] = cells["paths"].cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for kind, column in cells.items():
        path = written(folder / name, pa.table({"image": column, "target": targets}))
        expected = [(1, 3), (0, None), ("the row has no image", 1), (3, 0), (2, None)]
        for workers in (0, 2) if kind == "struct" else (0,):
            assert [row[1:] for row in seen(path, workers=workers)] == expected, kind
    photographs = Photographs(path, TINY)
    assert [item.source for item in photographs.items] == [f"{name}/{row}" for row in range(5)]
    # Backwards, and in another process.
    reader = pickle.loads(pickle.dumps(photographs.reader()))
    again = [reader[part].sources for part in photographs.parts(2, [4, 0])]
    assert again == [[f"{name}/4"], [f"{name}/0", f"{name}/1"]]
    reader.close()


def test_files_of_a_column_of_images_are_beside_their_table(folder):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for seed in (1, 0):
        (folder / f"d{seed}").mkdir()
        (folder / f"{seed}.png").rename(folder / f"d{seed}" / "x.png")
        cells = pa.array([{"bytes": None, "path": path} for path in ("x.png", "gone.png")], kind)
        written(folder / f"d{seed}" / "t.parquet", pa.table({"image": cells}))
    gone = "gone.png: No such file or directory"
    assert [row[1] for row in seen(f"{folder}/*/t.parquet", size=1)] == [0, gone, 1, gone]


def test_a_category_of_names_is_a_list_of_files(folder):
    names = pa.array(["1.png", "0.png", "1.png"]).dictionary_encode()
    path = written(folder / "a.parquet", pa.table({"file": names}))
    assert seen(path) == [("1.png", 1, None), ("0.png", 0, None), ("1.png", 1, None)]


def test_a_column_of_names_is_a_list_of_files(folder):
    path = written(folder / "a.parquet", pa.table({"file": ["1.png", "gone.png", "0.png"], "target": ["2", None, "x"]}))
    assert seen(path, class_names=["a", "x", "c"]) == [
        ("1.png", 1, 2),
        ("gone.png", "No such file or directory", None),
        ("0.png", 0, 1),
    ]


def saved(folder, seeds, labels, names=("dog", "cat")):
    """A folder as `datasets.Dataset.save_to_disk` makes it."""
    features = {"img": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    table = pa.table({"img": structs(seeds), "label": pa.array(labels)})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder.mkdir(parents=True)
    written(folder / "data-00000-of-00001.arrow", table)
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def test_a_data_set_of_hugging_face_is_found_by_its_features(tmp_path):
    path = saved(tmp_path / "dict" / "train", [1, 2, 3], [0, 1, None])
    photographs = Photographs(path, TINY, class_names=["cow", "cat", "dog"], target_column="label")
    assert seen(photographs) == [
        ("data-00000-of-00001.arrow/0", 1, 2),
        ("data-00000-of-00001.arrow/1", 2, 1),
        ("data-00000-of-00001.arrow/2", 3, None),
    ]
    (note,) = Photographs(path, TINY, class_names=["cow", "cat", "dog"]).notes
    assert "label" in note
    with pytest.raises(ValueError, match=r"row 0 of .*: target: no class is called 'dog'"):
        Photographs(path, TINY, class_names=["cow", "cat", "hen"], target_column="label")
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"source: .*dict has several data sets; expected .*dict/train, .*/test"):
        Photographs(tmp_path / "dict", TINY)


def test_a_data_set_of_hugging_face_is_a_source_in_memory_and_on_disk(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    cells = [{"bytes": picture(seed), "path": None} for seed in (1, 0, 2)]
    whole = datasets.Dataset.from_dict({"img": cells, "label": [0, 1, 0]}, features=features)
    names = ["cow", "cat", "dog"]
    assert seen(whole, class_names=names, target_column="label", workers=2) == [("0", 1, 2), ("1", 0, 1), ("2", 2, 2)]
    assert seen(whole.select([2, 1])) == [("0", 2, None), ("1", 0, None)]
    whole.save_to_disk(tmp_path / "saved")
    found = seen(tmp_path / "saved", class_names=names, target_column="label")
    assert [row[1:] for row in found] == [(1, 2), (0, 1), (2, 2)]
    # Nobody knows when it was changed: a job that goes on looks at the bytes.
    assert len({Photographs(whole, TINY).stamps(3) for _ in range(2)}) == 2
    split = datasets.DatasetDict(train=whole)
    split.save_to_disk(tmp_path / "split")
    assert [row[1] for row in seen(tmp_path / "split" / "train")] == [1, 0, 2]
    for source, error, message in (
        (tmp_path / "split", ValueError, "has several data sets; expected one of .*split/train"),
        (split, TypeError, "expected a datasets.Dataset, one split; got a DatasetDict"),
        (whole.to_iterable_dataset(), TypeError, "expected a datasets.Dataset, one split; got a IterableDataset"),
        (whole.remove_columns("img"), ValueError, "expected a column of the data set that is called file, .*got label"),
        (7, TypeError, "expected a path, an address or a datasets.Dataset; got int"),
    ):
        with pytest.raises(error, match=f"source: .*{message}"):
            Photographs(source, TINY)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("a.parquet", {"pixels": [b"x"]}, r"expected a column of .*a\.parquet that is called file, file_name, image"),
        ("a.parquet", {"image": [3]}, r"in the column image of .*a\.parquet; got int64"),
        ("a.arrow", {"image": [[b"x"]]}, r"in the column image of .*a\.arrow; got list<"),
        ("a.parquet", {"file": ["a.png", None]}, r"row 1 of .*a\.parquet names no file"),
        ("a.parquet", {"image": [b"x"], "target": ["dog"]}, r"row 0 of .*a\.parquet: target: expected a class index"),
        ("a.parquet", {"image": pa.array([], pa.binary())}, r"no images in .*a\.parquet"),
    ],
)
def test_a_table_that_has_no_images_is_refused(tmp_path, name, table, message):
    with pytest.raises(ValueError, match=f"source: .*{message}"):
        Photographs(written(tmp_path / name, pa.table(table)), TINY)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_a_damaged_table_is_refused_or_its_rows_are_errors(tmp_path, name):
    path = written(tmp_path / name, pa.table({"image": structs([1, 2, 3, 0])}))
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"source: .*{name} can't be read"):
            Photographs(path, TINY)
    path.write_bytes(data)
    photographs = Photographs(path, TINY)
    path.write_bytes(data[: len(data) // 4])
    assert all(isinstance(error, str) for _, error, _ in seen(photographs))
    path.unlink()
    assert [error for _, error, _ in seen(photographs)] == ["No such file or directory"] * 4
