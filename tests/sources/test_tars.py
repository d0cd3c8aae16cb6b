"""Tars as sources: no image of one is lost or taken for another, whatever its names, links and holes."""

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from cfcam_gpu.pipelines import Photographs

from ..pipeline_jobs import TINY
from ..source_images import archive, link, picture, seen


def test_each_image_of_names_with_several_dots_is_one(tmp_path):
    names = ["1.2.840.113.0", "1.2.840.113.1", "img_0.5", "img_0.7", "img_0"]
    members = [(f"{name}.png", picture(seed)) for seed, name in enumerate(names)]
    members.insert(2, ("1.2.840.113.1.cls", b"3"))
    archive(tmp_path / "a.tar", members)
    assert seen(tmp_path / "a.tar") == [
        (f"a.tar/{name}.png", seed, 3 if seed == 1 else None) for seed, name in enumerate(names)
    ]


def test_of_several_images_of_a_sample_the_plain_one_is_taken_and_the_others_are_told(tmp_path):
    sample = [("0.depth.png", picture(1)), ("0.jpg", picture(2, "JPEG")), ("0.cls", b"4"), ("0.png", picture(3))]
    archive(tmp_path / "a.tar", [*sample, ("1.depth.png", picture(4)), ("1.jpg", picture(5, "JPEG"))])
    photographs = Photographs(tmp_path / "a.tar", TINY)
    assert seen(photographs) == [("a.tar/0.jpg", 2, 4), ("a.tar/1.jpg", 5, None)]
    assert photographs.notes == [
        "passed over, as another image of the sample is taken: 2 depth.png, 1 png; a.tar/0.depth.png for 0.jpg, for one"
    ]


def test_where_no_image_of_a_sample_is_plain_all_are_taken(tmp_path):
    archive(tmp_path / "a.tar", [("0.left.png", picture(1)), ("0.right.png", picture(2)), ("0.cls", b"4")])
    assert seen(tmp_path / "a.tar") == [("a.tar/0.left.png", 1, 4), ("a.tar/0.right.png", 2, 4)]


def test_samples_are_those_of_webdataset(tmp_path):
    members = [(f"x/{b}.{kind}", data) for b in range(4) for kind, data in (("png", picture(b)), ("cls", b"%d" % b))]
    path = archive(tmp_path / "a.tar", members)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert seen(path) == [(f"a.tar/{sample['__key__']}.png", b, int(sample["cls"])) for b, sample in enumerate(theirs)]
    assert [sample["png"] for sample in theirs] == [picture(b) for b in range(4)]


def test_a_name_that_comes_twice_is_two_images(tmp_path):
    members = [("a.png", picture(1)), ("a.cls", b"1"), ("a.png", picture(2)), ("a.cls", b"2")]
    archive(tmp_path / "a.tar", [*members, ("b.PNG", picture(3)), ("b.png", picture(4))])
    assert seen(tmp_path / "a.tar") == [
        ("a.tar/a.png", 1, 1),
        ("a.tar/a.png", 2, 2),
        ("a.tar/b.PNG", 3, None),
        ("a.tar/b.png", 4, None),
    ]


def test_links_lead_to_the_image_within_the_tar_and_nowhere_else(tmp_path):
    (tmp_path / "outside.png").write_bytes(picture(7))
    members = [
        ("d/a.png", picture(1)),
        ("d/a.cls", b"1"),
        link("b.png", "d/a.png", hard=True),
        link("b.cls", "d/a.cls", hard=True),
        link("d/c.png", "a.png"),
        link("d/d.png", "../b.png"),
        link("later.png", "z.png"),
        link("away.png", "../outside.png"),
        link("root.png", str(tmp_path / "outside.png")),
        link("gone.png", "nothing.png"),
        link("round.png", "about.png"),
        link("about.png", "round.png"),
        link("bare", "d/a.png"),
        ("z.png", picture(2)),
    ]
    archive(tmp_path / "a.tar", members)
    assert seen(tmp_path / "a.tar", size=20) == [
        ("a.tar/d/a.png", 1, 1),
        ("a.tar/b.png", 1, 1),
        ("a.tar/d/c.png", 1, None),
        ("a.tar/d/d.png", 1, None),
        ("a.tar/later.png", 2, None),
        ("a.tar/away.png", "a link to ../outside.png, which is outside of the tar", None),
        ("a.tar/root.png", f"a link to {tmp_path}/outside.png, which is outside of the tar", None),
        ("a.tar/gone.png", "a link to nothing.png, which is not in the tar", None),
        ("a.tar/round.png", "links in a circle", None),
        ("a.tar/about.png", "links in a circle", None),
        ("a.tar/bare", 1, None),
        ("a.tar/z.png", 2, None),
    ]


def test_a_hard_link_means_the_file_that_was_there_before_it(tmp_path):
    members = [("a.png", picture(1)), link("b.png", "a.png", hard=True), ("a.png", picture(2))]
    archive(tmp_path / "a.tar", members)
    assert [seed for _, seed, _ in seen(tmp_path / "a.tar")] == [1, 1, 2]


def test_a_file_without_a_suffix_is_an_image_where_it_begins_as_one(tmp_path):
    members = [("a", picture(1)), ("README", b"text"), ("IMG.0001", picture(2)), (".hidden.png", b""), ("b.txt", b"x")]
    archive(tmp_path / "a.tar", members)
    assert Photographs(tmp_path / "a.tar", TINY).notes == ["passed over: 1 without a suffix"]
    assert seen(tmp_path / "a.tar") == [
        ("a.tar/a", 1, None),
        ("a.tar/IMG.0001", 2, None),
        ("a.tar/b.txt", "no image among txt", None),
    ]


def test_archives_one_behind_the_other_are_read_to_the_end(tmp_path):
    first = archive(tmp_path / "a.tar", [("a.png", picture(1))]).read_bytes()
    second = archive(tmp_path / "b.tar", [("b.png", picture(2)), ("c.png", picture(3))]).read_bytes()
    (tmp_path / "both.tar").write_bytes(first + second + first)
    assert [seed for _, seed, _ in seen(tmp_path / "both.tar")] == [1, 2, 3, 1]
    (tmp_path / "both.tar").write_bytes(first + b"no tar" * 100 + second)
    with pytest.raises(ValueError, match=r"source: .*both\.tar is damaged or cut off at byte 10,240"):
        Photographs(tmp_path / "both.tar", TINY)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_sparse_image_is_read_with_its_holes(tmp_path, form):
    pixels = np.zeros((1200, 600, 3), np.uint8)
    pixels[:100], pixels[-100:] = 200, 99
    Image.fromarray(pixels).save(tmp_path / "whole.bmp")
    subprocess.run(["cp", "--sparse=always", tmp_path / "whole.bmp", tmp_path / "a.bmp"], check=True)
    (tmp_path / "b.png").write_bytes(picture(1))
    subprocess.run(
        ["tar", f"--format={form}", "-cSf", tmp_path / "a.tar", "-C", tmp_path, "a.bmp", "b.png"], check=True
    )
    if os.path.getsize(tmp_path / "a.tar") > pixels.size:
        pytest.skip("this file system has no holes")
    (batch,) = Photographs(tmp_path / "a.tar", TINY).batches(2)
    assert batch.errors == [None, None]
    np.testing.assert_array_equal(batch.images[0], TINY.pixels(Image.fromarray(pixels)))
    assert seen(tmp_path / "a.tar")[1] == ("a.tar/b.png", 1, None)


def test_a_sparse_image_that_is_too_long_for_the_memory_is_an_error(tmp_path, monkeypatch):
    info = tarfile.TarInfo("a.png")
    info.size, info.pax_headers = 512, {"GNU.sparse.map": "0,10", "GNU.sparse.size": str(1 << 50)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(512)))
    ((_, error, _),) = seen(tmp_path / "a.tar")
    assert error == "sparse, and 1,125,899,906,842,624 bytes long with its holes: unpack a.tar"


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_a_packed_tar_is_a_source(tmp_path, suffix):
    members = [(f"{b}.{kind}", data) for b in range(7) for kind, data in (("png", picture(b)), ("cls", b"%d" % b))]
    packing = {"tgz": "gz"}.get(suffix, suffix.rpartition(".")[2])
    path = archive(tmp_path / f"a.{suffix}", members, mode=f"w:{packing}")
    for workers in (0, 2):
        assert seen(path, workers=workers) == [(f"a.{suffix}/{b}.png", b, b) for b in range(7)]
    photographs = Photographs(path, TINY)
    assert [batch.index for batch in photographs.batches(2, starts=[4, 0])] == [4, 0]


def test_a_packed_tar_that_is_damaged_is_refused(tmp_path):
    path = archive(tmp_path / "a.tar.gz", [("a.png", picture(1)), ("b.png", picture(2))], mode="w:gz")
    data = path.read_bytes()
    for damaged in (data[:-5000], data[:-8] + bytes(8), b"no gzip", data[:-8]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"source: .*a\.tar\.gz (is damaged or cut off|can't be read)"):
            Photographs(path, TINY)
    (tmp_path / "a.tar").write_bytes(gzip.compress(bytes(1024)))
    with pytest.raises(ValueError, match=r"it is packed: its name should end in \.tar\.gz"):
        Photographs(tmp_path / "a.tar", TINY)


def test_images_without_a_class_have_their_predicted_one(tmp_path):
    texts = [b"3", b"-1", b" 2.0\n", b"nan", b"", b"Cat"]
    members = [(f"{b}.{kind}", data) for b in range(6) for kind, data in (("png", picture(b)), ("cls", texts[b]))]
    path = archive(tmp_path / "a.tar", members)
    photographs = Photographs(path, TINY, class_names=["dog", "cat", "cow", "hen"])
    assert [item.target for item in photographs.items] == [3, None, 2, None, None, 1]
    assert photographs.notes == ["2 images have no class (-1, NaN, None or null): the predicted one is explained"]
    with pytest.raises(ValueError, match=r"source: of a\.tar/5\.png: target: no class is called 'Cat'"):
        Photographs(path, TINY, class_names=["dog", "car", "cow", "hen"])
    others = Photographs(path, TINY, class_names=["dog"], own_targets=False)
    assert [item.target for item in others.items] == [None] * 6
    assert others.notes == []


def test_a_tar_that_is_cut_off_between_two_files_is_refused(tmp_path):
    path = archive(tmp_path / "a.tar", [(f"{seed}.png", picture(seed)) for seed in range(3)])
    with tarfile.open(path) as tar:
        last = tar.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(ValueError, match=rf"source: .*a\.tar has no end mark: it is cut off at byte {last:,}"):
        Photographs(path, TINY)
    path.write_bytes(path.read_bytes() + bytes(1024))
    assert [seed for _, seed, _ in seen(path)] == [0, 1]


@pytest.mark.parametrize(
    ("members", "targets", "notes"),
    [
        (["x.input.png", "x.target.cls"], [3], []),
        (["x.target.cls", "x.left.png", "x.right.png"], [3, 3], []),
        (["x.left.cls", "x.left.png", "x.right.png"], [3, None], []),
        (["x.1.cls", "x.0.png"], [None], ["passed over: 1 .cls"]),
        (["x.png", "x.a.cls", "x.b.cls"], [None], ["passed over: 2 .cls"]),
        (["x.png", "x.cls", "x.b.cls"], [3], ["passed over: 1 .cls"]),
    ],
)
def test_the_only_class_of_a_sample_is_its_images(tmp_path, members, targets, notes):
    path = archive(tmp_path / "a.tar", [(name, b"3" if name.endswith("cls") else picture(1)) for name in members])
    photographs = Photographs(path, TINY)
    assert [item.target for item in photographs.items] == targets
    assert photographs.notes == notes
    assert Photographs(path, TINY, own_targets=False).notes == []


def test_links_lead_through_absolute_names_and_linked_folders(tmp_path):
    members = [
        ("/data/0.png", picture(0)),
        link("/data/1.png", "/data/0.png"),
        link("/data/2.png", "/data/0.png", hard=True),
        ("d/3.png", picture(3)),
        link("dd", "d"),
        link("ddd", "dd"),
        link("4.png", "dd/3.png"),
        link("5.png", "ddd/3.png"),
        link("loop", "loop/loop"),
        link("6.png", "loop/3.png"),
    ]
    archive(tmp_path / "a.tar", members)
    found = [row[1] for row in seen(tmp_path / "a.tar", size=20)]
    assert found[:6] == [0, 0, 0, 3, 3, 3]
    assert found[6].startswith("a link to loop/")
