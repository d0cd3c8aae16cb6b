"""The photographs in two parts."""

import csv

import pytest
from PIL import Image

from bench import split
from cfcam_gpu.evaluation import data as albums

#: Sources of classes 0 to 21: class 3 has one of class 2, and class 20 three photographs.
SOURCES = {index: [f"cut-out {index}"] * 2 for index in range(22)}
SOURCES[3] = ["cut-out 2", "cut-out 3"]
SOURCES[20] = ["cut-out 20"] * 3


@pytest.fixture
def folder(tmp_path):
    """Photographs of 22 classes, every third without a mask."""
    data = tmp_path / "data"
    (data / "img").mkdir(parents=True)
    (data / "mask").mkdir()
    rows = []
    for index, sources in SOURCES.items():
        for source in sources:
            name = f"{len(rows)}.png"
            mask = "" if len(rows) % 3 == 0 else f"mask/{name}"
            Image.new("RGB", (8, 8)).save(data / "img" / name)
            if mask:
                Image.new("1", (8, 8), 1).save(data / mask)
            rows.append({"file": f"img/{name}", "mask": mask, "class_index": index, "source": source})
    with open(data / albums.MANIFEST, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return data


def test_no_object_is_in_both_parts_and_none_is_left_out(folder):
    parts = split.parts(folder)
    choosing, reporting = parts.values()
    for key in ("file", "class_index", "source"):
        assert not {row[key] for row in choosing} & {row[key] for row in reporting}
    assert len(choosing) + len(reporting) == sum(map(len, SOURCES.values()))
    assert abs(len(choosing) - len(reporting)) <= 1
    assert abs(sum(not row["mask"] for row in choosing) - sum(not row["mask"] for row in reporting)) <= 2
    assert split.parts(folder) == parts


def test_each_part_is_a_folder_of_its_own_with_mosaics_of_its_own(folder, tmp_path, capsys):
    assert split.main([str(folder), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count(" photographs of ") == 2
    for part, rows in split.parts(folder).items():
        album = albums.read(tmp_path / "out" / part)
        assert [one.name for one in album.photographs] == [row["file"] for row in rows]
        assert [one.mask is None for one in album.photographs] == [not row["mask"] for row in rows]
        assert {n: sum(grid.n == n for grid in album.grids) for n in split.COUNTS} == split.COUNTS
    again = tmp_path / "again"
    split.write(folder, again)
    mosaics = [(root / split.CHOOSING / albums.MOSAICS).read_text() for root in (tmp_path / "out", again)]
    assert mosaics[0] == mosaics[1]


def test_too_few_classes_for_a_mosaic_give_none(folder):
    photographs = [one for one in albums.read(folder).photographs if one.class_index < 6]
    grids = split.mosaics(photographs, {2: 5, 3: 5})
    assert [grid.n for grid in grids] == [2] * 5
    assert all(len({cell.class_index for cell in grid.cells}) == 4 for grid in grids)
