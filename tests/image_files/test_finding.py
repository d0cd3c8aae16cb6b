"""Photographs are found in order, and what is passed over is counted."""

import os
from collections import Counter

import pytest
from PIL import Image

from cfcam_gpu.image_files import photos
from cfcam_gpu.image_files.finding import suffix_of


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_is_searched_in_order(tmp_path):
    touch(tmp_path, "b/z.JPG", "b/a.png", "c.webp", "a.tiff", "a.txt", ".hidden.png", ".cache/a.png", "out/a.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = photos.find([tmp_path], skip=tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.tiff", "b/a.png", "b/z.JPG", "c.webp"]


def test_files_keep_their_order_and_come_once(tmp_path):
    touch(tmp_path, "b.png", "a.png", "c.raw")
    (tmp_path / "link").symlink_to(tmp_path / "a.png")
    given = [
        tmp_path / "c.raw",
        tmp_path / "b.png",
        tmp_path,
        tmp_path / ".." / tmp_path.name / "b.png",
        tmp_path / "link",
    ]
    assert [path.name for path in photos.find(given, skip=tmp_path / "out")] == ["c.raw", "b.png", "a.png"]


def test_nothing_found_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        photos.find([tmp_path / "nowhere.png"], skip=tmp_path)
    touch(tmp_path, "empty/a.txt")
    with pytest.raises(ValueError, match=r"no photographs in .*empty"):
        photos.find([tmp_path / "empty"], skip=tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_can_not_be_read_is_refused(tmp_path):
    touch(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(PermissionError, match="closed"):
            photos.find([tmp_path], skip=tmp_path / "out")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_the_suffixes_are_those_of_what_is_read(tmp_path):
    suffixes = ("JFIF", "apng", "avif", "dib", "heic", "hif", "j2k", "jp2", "jpe", "jxl", "mpo", "pbm", "pgm", "pnm")
    found = [f"a.{suffix}" for suffix in suffixes]
    touch(tmp_path, *found, "a.svg", "a.psd", "a.eps", "a.pfm")
    assert [path.name for path in photos.search(tmp_path, tmp_path / "out")] == found


def test_what_has_no_suffix_is_taken_where_it_begins_as_a_photograph(tmp_path):
    for name in ("plain", "IMG.0001", "1.2.840.113.10008", "Mr. Smith", "copy.png~"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    for name in ("README", "1.2.840.113.10009"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    search = photos.Search(tmp_path, tmp_path / "out")
    assert [path.name for path in search] == ["1.2.840.113.10008", "IMG.0001", "Mr. Smith", "plain"]
    assert search.passed_over == {"without a suffix": 3 + hasattr(os, "mkfifo"), ".png~": 1}


def test_what_is_passed_over_is_counted_and_told(tmp_path):
    touch(tmp_path, "a.png", "b/x.MHA", "b/y.mha", "c.nii.gz", "d.svs", "notes", ".hidden", ".cache/a.mha", "out/z.mha")
    (tmp_path / "link").symlink_to(tmp_path)
    search = photos.Search(tmp_path, tmp_path / "out")
    for _ in range(2):
        assert len(list(search)) == 1
        wanted = {".mha": 2, ".nii.gz": 1, ".svs": 1, "without a suffix": 1, "linked folder": 1}
        assert search.passed_over == wanted
    said = "passed over: 2 .mha, 1 .nii.gz, 1 .svs, 1 linked folder, 1 without a suffix"
    assert photos.told(search.passed_over) == said
    kinds = ("csv", "doc", "gz", "h5", "json", "log", "mat", "npy", "pdf", "txt")
    many = Counter({f".{kind}": 2 for kind in kinds} | {"linked folder": 3})
    assert photos.told(many).startswith("passed over: 3 linked folders, 2 .csv, 2 .doc")
    assert photos.told(many).endswith("2 .mat, 6 of other suffixes")


def test_a_dicomdir_is_passed_over_and_a_folder_of_that_name_is_not(tmp_path):
    touch(tmp_path, "DICOMDIR", "b/dicomdir", "c/DICOMDIR/a.png")
    search = photos.Search(tmp_path, tmp_path / "out")
    assert [path.name for path in search] == ["a.png"]
    assert not search.passed_over


def test_a_suffix_that_may_be_part_of_a_name_is_not_told():
    assert photos.told(Counter({".smith": 3, ".txt": 1})) == "passed over: 1 .txt, 3 of other suffixes"
    assert photos.told(Counter({".smith": 3})) == "passed over: 3 of other suffixes"


def test_find_adds_up_what_it_passes_over(tmp_path):
    touch(tmp_path, "a/a.png", "a/x.mha", "b/b.png", "b/x.mha", "b/y.nrrd")
    passed_over = Counter()
    photos.find([tmp_path / "a", tmp_path / "b"], skip=tmp_path / "out", passed_over=passed_over)
    assert passed_over == {".mha": 2, ".nrrd": 1}


def test_a_folder_of_nothing_but_others_says_so(tmp_path):
    touch(tmp_path, "a.mha")
    with pytest.raises(ValueError, match=r"no photographs in .*passed over: 1 \.mha"):
        photos.find([tmp_path], skip=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.JPG", ".jpg"),
        ("a.nii.gz", ".nii.gz"),
        ("a.gz", ".gz"),
        ("a.7z", ".7z"),
        ("a", ""),
        ("a.1", ""),
        ("a. b", ""),
        ("a.jpg_large", ".jpg_large"),
        ("a.verylongsuffix", ""),
        ("a.", ""),
    ],
)
def test_suffixes(tmp_path, name, suffix):
    assert suffix_of(tmp_path / name) == suffix


def test_arrays_are_found_where_there_is_nothing_else(tmp_path):
    touch(
        tmp_path,
        "only/b.npy",
        "only/a/a.NPY",
        "only/notes.txt",
        "only/.hidden.npy",
        "beside/a.png",
        "beside/labels.npy",
    )
    passed_over = Counter()
    folders = [tmp_path / "only", tmp_path / "beside"]
    found = photos.find(folders, skip=tmp_path / "out", passed_over=passed_over, arrays=True)
    assert [path.name for path in found] == ["a.NPY", "b.npy", "a.png"]
    assert passed_over == {".txt": 1, ".npy": 1}
    with pytest.raises(ValueError, match=r"no photographs in .*only .*passed over: 2 \.npy, 1 \.txt"):
        photos.find(folders, skip=tmp_path / "out")
