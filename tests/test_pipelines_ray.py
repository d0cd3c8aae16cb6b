"""Ray Data on a real cluster of this machine, with several workers."""

import io
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.pipelines import Photographs, run
from cfcam_gpu.pipelines.ray import Explain
from cfcam_gpu.pipelines.ray import explained as explained_on_ray

from .services import SMALL, backend, expected, picture

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]


@pytest.fixture
def ray(cluster):
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


@pytest.fixture
def folder(tmp_path):
    """Nine images, and one that is none."""
    found = tmp_path / "images"
    found.mkdir()
    for i in range(10):
        (found / f"{i}.png").write_bytes(b"hello" if i == 3 else picture(i))
    return found


def explained(ray, items, kind=Explain, **options):
    actors = ray.data.from_items(items, override_num_blocks=5).map_batches(
        kind, fn_constructor_kwargs={"model": SMALL.model, **options}, batch_size=2, concurrency=2
    )
    return sorted(actors.take_all(), key=lambda row: row["id"])


def test_rows_are_the_librarys(ray, folder):
    answering = backend()
    targets = [None, 0, 1, 2, 3, 4, "class 1", "", None, 9]
    items = [{"id": i, "image": str(folder / f"{i}.png"), "target": targets[i]} for i in range(10)]
    # Of a column Arrow takes values of one kind.
    items = [{**item, "target": None if item["target"] is None else str(item["target"])} for item in items]
    rows = explained(ray, items)
    assert [row["id"] for row in rows] == list(range(10))
    assert [row["image"] for row in rows] == [item["image"] for item in items]
    assert {i: row["error"] for i, row in enumerate(rows) if row["error"]} == {
        3: "not an image in a format of JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM, or damaged",
        9: "target: class 9 is out of range for 5 classes (0 to 4)",
    }
    for i, row in enumerate(rows):
        assert row["map"].dtype == np.float16
        if i in (3, 9):
            assert np.isnan(row["map"]).all()
            assert row["target"] is None
            continue
        target = {6: 1, 7: None}.get(i, targets[i])
        wanted, _ = expected(answering, picture(i), target)
        assert (row["target"], row["class"]) == (wanted.target.item(), f"class {wanted.target.item()}")
        assert row["probability"] == pytest.approx(wanted.logits.softmax(1)[0, wanted.target].item(), rel=1e-5)
        assert (row["width"], row["height"]) == (60, 40)
        assert np.abs(row["map"].astype(np.float32) - wanted.maps[0].numpy()).max() < 1e-3


def test_bytes_and_arrays_are_images_too(ray):
    data = [picture(i) for i in range(4)]
    arrays = [np.asarray(Image.open(io.BytesIO(one))) for one in data]
    found = [
        explained(ray, [{"id": i, "image": image} for i, image in enumerate(images)], overlay=True)
        for images in (data, arrays)
    ]
    answering = backend()
    for i, (row, other) in enumerate(zip(*found)):
        wanted, pixels = expected(answering, data[i])
        assert np.abs(row["map"].astype(np.float32) - wanted.maps[0].numpy()).max() < 1e-3
        assert np.abs(row["overlay"].astype(int) - wanted.overlay(pixels)[0].numpy()).max() <= 1
        assert np.array_equal(row["map"], other["map"])
        assert "image" not in row


class Deadly(Explain):
    """Dies of its batch of image 5, once."""

    def __init__(self, marker, **options):
        super().__init__(**options)
        self.marker = Path(marker)

    def __call__(self, batch):
        if 5 in batch["id"] and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


def test_a_worker_that_is_killed_is_replaced_with_the_same_result(ray, folder, tmp_path):
    items = [{"id": i, "image": str(folder / f"{i}.png")} for i in range(10)]
    wanted = explained(ray, items)
    found = explained(ray, items, Deadly, marker=str(tmp_path / "died"))
    assert (tmp_path / "died").exists()
    for row, other in zip(found, wanted, strict=True):
        assert np.array_equal(row.pop("map"), other.pop("map"), equal_nan=True)
        assert row == other


def test_a_run_on_ray_is_the_run_without(ray, folder, tmp_path):
    answering = backend()
    source = Photographs(folder, answering.model.preparation)
    common = {"batch_size": 2, "shard_size": 4, "overlays": "png", "class_names": answering.class_names}
    run(answering.explainer, source, tmp_path / "here", **common)
    options = {"model": SMALL.model, "overlay": True}
    there = partial(explained_on_ray, source, batch_size=2, target=None, options=options)

    def stopped(first):
        for i, found in enumerate(there(first)):
            if i == 3:
                raise RuntimeError("enough")
            yield found

    with pytest.raises(RuntimeError, match="enough"):
        run(answering.explainer, source, tmp_path / "there", explained=stopped, **common)
    summary = run(answering.explainer, source, tmp_path / "there", explained=there, **common)
    assert (summary.images, summary.failed, summary.before) == (10, 1, 4)
    files = {path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file()}
    assert {path.suffix for path in files} >= {".parquet", ".png", ".json"}
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes(), file


def test_what_a_worker_cant_do_is_said(ray, folder):
    source = Photographs(folder, backend().model.preparation)
    found = explained_on_ray(source, 0, batch_size=2, target=None, options={"model": "tests.albums:large"})
    with pytest.raises(RuntimeError, match=r"tests\.albums has no function 'large'"):
        next(found)
