"""What a SOURCE means: folders, patterns, single files, and what is passed over."""

import os
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

from cfcam_gpu.pipelines import Photographs

from ..pipeline_jobs import TINY
from ..source_images import archive, picture, seen


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("b/1.png", 1), ("b/c/2.png", 2), ("0.png", 0)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(seed))
    (tmp_path / "b" / "notes.txt").write_text("x")
    (tmp_path / "b" / "scan.mha").write_bytes(b"x")
    return tmp_path


def test_a_pattern_of_images_keeps_their_names_where_others_come_to_them(folder):
    expected = [("1.png", 1, None), ("c/2.png", 2, None)]
    for pattern in ("b/**/*.png", "b/*", "b/**", "b/{1,c/2}.png", "b/{1.png,c/*}"):
        assert seen(f"{folder}/{pattern}") == expected, pattern
    (folder / "b" / "0.png").write_bytes(picture(0))
    assert seen(f"{folder}/b/**/*.png") == [("0.png", 0, None), *expected]


def test_a_pattern_in_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert seen("*/*.png") == [("b/1.png", 1, None)]
    assert seen("b") == [("1.png", 1, None), ("c/2.png", 2, None)]
    photographs = Photographs("b", TINY)
    monkeypatch.chdir("/")
    assert [row[1] for row in seen(photographs)] == [1, 2]


def test_a_name_that_looks_like_a_pattern_is_a_name(folder):
    (folder / "a[1]{x,y}.png").write_bytes(picture(4))
    assert seen(folder / "a[1]{x,y}.png") == [("a[1]{x,y}.png", 4, None)]


def test_what_a_folder_or_pattern_passes_over_is_told(folder):
    for source in (folder, f"{folder}/**/*"):
        assert Photographs(source, TINY).notes == ["passed over: 1 .mha, 1 .txt"]
    with pytest.raises(ValueError, match=r"source: no images in .*mha; passed over: 1 \.mha"):
        Photographs(f"{folder}/b/*.mha", TINY)


def test_results_are_no_source(folder):
    (folder / "out" / "overlays").mkdir(parents=True)
    (folder / "out" / "overlays" / "0.png").write_bytes(picture(5))
    for source in (folder, f"{folder}/**/*.png"):
        assert [row[1] for row in seen(source, skip=folder / "out")] == [0, 1, 2]


def test_a_folder_of_tars_or_tables_of_images_is_all_of_them(tmp_path):
    for number in (1, 0):
        (tmp_path / f"t{number}" / "x").mkdir(parents=True)
        archive(tmp_path / f"t{number}" / "x" / "a.tar", [("a.png", picture(number))])
        (tmp_path / f"t{number}" / "sizes.json").write_text("[]")
    expected = [("t0/x/a.tar/a.png", 0, None), ("t1/x/a.tar/a.png", 1, None)]
    assert seen(tmp_path) == expected
    assert seen(f"{tmp_path}/*/*/*.tar") == expected
    assert Photographs(tmp_path, TINY).notes == ["passed over: 2 .json"]
    (tmp_path / "data").mkdir()
    for number in range(2):
        pa.parquet.write_table(pa.table({"image": [picture(number)]}), tmp_path / "data" / f"{number}.parquet")
    assert seen(tmp_path / "data") == [("0.parquet/0", 0, None), ("1.parquet/0", 1, None)]
    with pytest.raises(ValueError, match=r"source: expected files of one kind in .*; got columns and tar"):
        Photographs(tmp_path, TINY)


def test_tables_of_several_folders_are_each_beside_their_files(folder):
    (folder / "a.csv").write_text("file\n0.png\n")
    (folder / "b" / "a.csv").write_text(f"file\n1.png\n{folder}/0.png\n")
    assert seen(f"{folder}/**/*.csv") == [("0.png", 0, None), ("b/1.png", 1, None), (f"{folder}/0.png", 0, None)]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "nowhere does not exist; expected a folder, a .txt with a file a line"),
        ("nowhere/*.png", FileNotFoundError, r"there is nothing that fits .*nowhere/\*\.png"),
        ("{a,b,c,d}.tar", FileNotFoundError, r"a\.tar, .*b\.tar, .*c\.tar and 1 more does not exist"),
        ("{a.tar", ValueError, r"\{a\.tar is no pattern: Unbalanced braces"),
        ("a.tar.zst", ValueError, "expected a folder, .*; got .*a.tar.zst"),
        ("b/scan.mha", ValueError, "expected a folder, .*; got .*scan.mha"),
        ("{0.png,a.tar}", ValueError, "expected files of one kind in .*; got image and tar"),
    ],
)
def test_what_can_not_be_meant_is_refused(folder, source, error, message):
    (folder / "a.tar.zst").write_bytes(b"x")
    if "0.png" in source:
        archive(folder / "a.tar", [])
    with pytest.raises(error, match=f"source: .*{message}"):
        Photographs(f"{folder}/{source}", TINY)


def test_without_braceexpand_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"braceexpand is not installed; pip install 'cfcam-gpu\[pipelines\]'"
    ):
        Photographs("{a,b}.tar", TINY)


def test_images_may_be_put_in_the_order_of_a_job(folder):
    (folder / "list.txt").write_text("0.png\nb/1.png\n0.png\nb/c/2.png\ncaf\udce9.png\n", errors="surrogateescape")
    photographs = Photographs(folder / "list.txt", TINY)
    assert [row[1] for row in seen(photographs)][:4] == [0, 1, 0, 2]
    other = photographs.ordered(["caf?.png", "b/c/2.png", "0.png"])
    assert [row[:2] for row in seen(other)] == [
        ("caf\udce9.png", "No such file or directory"),
        ("b/c/2.png", 2),
        ("0.png", 0),
        ("b/1.png", 1),
        ("0.png", 0),
    ]
    assert other.fingerprint(5) != photographs.fingerprint(5)
    assert other.ordered([item.source for item in photographs.items]).fingerprint(5) == photographs.fingerprint(5)
    with pytest.raises(ValueError, match=r"source: 0\.png, gone\.png no longer in .*list\.txt"):
        photographs.ordered(["0.png", "0.png", "0.png", "gone.png"])


def test_a_pipe_is_never_waited_for(folder):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    for name in ("a.tar", "a.csv", "a.parquet", "x"):
        os.mkfifo(folder / name)
        with pytest.raises((OSError, ValueError), match=r"source: .*(not a regular file|expected a folder)"):
            Photographs(folder / name, TINY)


def test_two_stars_do_not_go_through_links_to_folders(folder, monkeypatch):
    (folder / "b" / "round").symlink_to(".")
    (folder / "b" / "again").symlink_to(".")
    monkeypatch.chdir(folder)
    inside = [("1.png", 1, None), ("c/2.png", 2, None)]
    for pattern in ("b/**/*.png", f"{folder}/b/**/*.png", f"{folder}/?/**/**/*.png"):
        photographs = Photographs(pattern, TINY)
        assert [row[1:] for row in seen(photographs)] == [row[1:] for row in inside], pattern
        assert photographs.notes == ["passed over: 2 linked folders"], pattern
    assert [row[0] for row in seen("**/*.png")] == ["0.png", "b/1.png", "b/c/2.png"]
    assert [row[0] for row in seen("b/round/*.png")] == ["1.png"]


@pytest.mark.parametrize("name", ["0.tar", "0.parquet"])
def test_results_are_no_source_beside_tars_and_tables(tmp_path, name):
    table = pa.table({"image": [picture(1)]})
    archive(tmp_path / "0.tar", [("a.png", picture(1))])
    pa.parquet.write_table(table, tmp_path / "0.parquet")
    (tmp_path / ({"0.tar", "0.parquet"} - {name}).pop()).unlink()
    before = seen(tmp_path)
    (tmp_path / "b" / "out").mkdir(parents=True)
    pa.parquet.write_table(table, tmp_path / "b" / "out" / "manifest.parquet")
    assert seen(tmp_path, skip=tmp_path / "b" / "out") == before


def test_what_is_packed_with_zstandard_is_to_be_unpacked(tmp_path):
    for name in ("a.tar", "a.tar.zst"):
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
        with pytest.raises(ValueError, match="packed with Zstandard: unpack it"):
            Photographs(tmp_path / name, TINY)
