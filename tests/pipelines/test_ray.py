"""Explain, the callable for Ray Data, by itself and on a real cluster of this machine."""

import inspect
import io
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu import CAM
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.pipelines import Photographs, ray_session, run
from cfcam_gpu.pipelines.ray import Explain
from cfcam_gpu.pipelines.ray import explained as explained_on_ray
from cfcam_gpu.pipelines.rows import COLUMNS

from ..pipeline_jobs import contents
from ..services import SMALL, backend, expected, picture
from .deadly import Deadly

# What Ray Data deprecates among its own settings.
quietly = pytest.mark.filterwarnings(
    "ignore:`use_push_based_shuffle`", "ignore:`use_polars`", "ignore:`use_arrow_tensor_v2`"
)

ROOT = Path(__file__).parents[2]
TARGETS = [None, "0", "1", "2", "3", "4", "class 1", "", None, "9"]


@pytest.fixture(scope="module")
def answering():
    return backend()


def test_actors_take_every_setting():
    assert {field.name for field in fields(Settings)} <= inspect.signature(Explain).parameters.keys()


@pytest.fixture
def folder(tmp_path):
    """Nine images, and one that is none."""
    found = tmp_path / "images"
    found.mkdir()
    for i in range(10):
        (found / f"{i}.png").write_bytes(b"hello" if i == 3 else picture(i))
    return found


def column(values):
    found = np.empty(len(values), object)
    found[:] = values
    return found


def test_rows_are_the_librarys(answering, folder):
    paths = column([str(folder / f"{i}.png") for i in range(10)])
    rows = Explain(SMALL.model)({"id": np.arange(10), "image": paths, "target": column(TARGETS)})
    assert rows["id"].tolist() == list(range(10))
    assert rows["image"].tolist() == paths.tolist()
    errors = {i: error for i, error in enumerate(rows["error"]) if error}
    assert errors == {3: errors[3], 9: "target: class 9 is out of range for 5 classes (0 to 4)"}
    assert errors[3].startswith("not an image in a format of JPEG, PNG, ")
    for i in range(10):
        if i in (3, 9):
            assert np.isnan(rows["map"][i]).all()
            assert rows["target"][i] is None
            continue
        given = TARGETS[i] or None
        target = given and int(given.removeprefix("class "))
        wanted, _ = expected(answering, picture(i), target)
        assert rows["target"][i] == wanted.target.item()
        assert rows["class"][i] == f"class {rows['target'][i]}"
        assert rows["probability"][i] == pytest.approx(wanted.logits.softmax(1)[0, wanted.target].item(), rel=1e-5)
        assert (rows["width"][i], rows["height"][i]) == (60, 40)
        assert np.abs(rows["map"][i].astype(np.float32) - wanted.maps[0].numpy()).max() < 1e-3


@pytest.mark.parametrize("kind", ["bytes", "arrays"])
def test_bytes_and_arrays_are_images_too(answering, kind):
    data = [picture(i) for i in range(4)]
    images = column(data) if kind == "bytes" else np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in data])
    # As None among numbers comes out of Arrow.
    rows = Explain(SMALL.model, overlay=True)({"image": images, "target": np.array([np.nan, 2, 0, np.nan])})
    assert "image" not in rows
    for i, target in enumerate([None, 2, 0, None]):
        wanted, pixels = expected(answering, data[i], target)
        assert rows["target"][i] == wanted.target.item()
        assert np.abs(rows["map"][i].astype(np.float32) - wanted.maps[0].numpy()).max() < 1e-3
        assert np.abs(rows["overlay"][i].astype(int) - wanted.overlay(pixels)[0].numpy()).max() <= 1


def test_what_is_no_image_is_an_error_of_its_row():
    rows = Explain(SMALL.model)({"image": column([7, np.zeros((4, 4), np.uint8), picture()])})
    assert rows["error"].tolist() == [
        "expected a path, bytes or (H, W, 3) uint8; got int",
        "expected a path, bytes or (H, W, 3) uint8; got uint8 (4, 4)",
        None,
    ]
    with pytest.raises(KeyError, match="expected a column 'image'; got photo"):
        Explain(SMALL.model)({"photo": column([picture()])})


def test_columns_are_the_manifests_but_for_what_photographs_never_have(folder):
    paths = column([str(folder / f"{i}.png") for i in range(4)])
    rows = Explain(SMALL.model, components=2)({"image": paths})
    assert set(COLUMNS) - set(rows) == {"index", "source", "depth", "centre_z", "overlay"}
    assert "components" not in Explain(SMALL.model)({"image": paths})
    assert [part["name"] for part in rows["components"][0]][-1] == "rest"
    for name, values in rows.items():
        assert len(values) == 4
        assert name in ("image", "error", "width", "height", "pages") or values[3] is None or name == "map"
    assert rows["pages"].tolist() == [1, 1, 1, None]


@pytest.mark.parametrize("options", [{"method": "layercam"}, {"augment": ["flip"]}, {"smooth": 2}])
def test_other_methods_and_several_looks(answering, folder, options):
    data = [picture(i) for i in range(3)]
    rows = Explain(SMALL.model, dtype="float32", **options)({"image": column(data)})
    loaded = answering.model
    images = loaded.preparation.normalize(
        torch.stack([loaded.preparation.pixels(Image.open(io.BytesIO(one))) for one in data])
    )
    result = CAM(loaded.module, **{"method": "cfcam", **options})(images)
    assert np.array_equal(rows["map"], result.maps.numpy())
    assert rows["clusters"].tolist() == [None] * 3
    with pytest.raises(ValueError, match="components: only one look by the method cfcam has them"):
        Explain(SMALL.model, components=2, **options)


def test_targets_as_tables_have_them(folder):
    given = ["3.0", 2.0, np.float32(1), "nan", -1, np.int64(0), None, "7", 1.5]
    rows = Explain(SMALL.model)({"image": column([picture(0)] * 9), "target": column(given)})
    predicted = rows["predicted"][0]
    assert rows["target"].tolist() == [3, 2, 1, predicted, predicted, 0, predicted, None, None]
    assert "class 7 is out of range for 5 classes" in rows["error"][7]
    assert "1.5" in rows["error"][8]


def test_nothing_that_is_left_needs_no_cluster(answering, folder):
    ray_session.prepare()
    source = Photographs(folder, answering.model.preparation)
    assert list(explained_on_ray(source, [], batch_size=2, target=None, options={})) == []


@quietly
def test_a_cluster_that_is_gone_is_an_error_that_a_run_reports(answering, folder, monkeypatch):
    ray_session.prepare()
    import ray.data

    rows = MagicMock()
    rows.map_batches.return_value = rows
    rows.iter_rows.side_effect = ray.exceptions.NodeDiedError("the node is gone")
    monkeypatch.setattr(ray.data, "from_items", lambda items: rows)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2})
    source = Photographs(folder, answering.model.preparation)
    with pytest.raises(RuntimeError, match="the node is gone"):
        list(explained_on_ray(source, [0, 2], batch_size=2, target=None, options={}))


@quietly
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_is_replaced_with_the_same_result(folder, tmp_path, workers):
    import ray.data

    paths = [str(folder / f"{i}.png") for i in range(10)]
    items = [{"id": i, "image": paths[i], "target": TARGETS[i]} for i in range(10)]
    died, quick = tmp_path / "died", {"model": SMALL.model, "engine": "reference"}  # of which nothing is to be loaded
    pool = ray.data.from_items(items, override_num_blocks=5).map_batches(
        Deadly, fn_constructor_kwargs={"marker": str(died), **quick}, batch_size=2, concurrency=workers
    )
    pool.context.enable_progress_bars = False
    found = sorted(pool.take_all(), key=lambda row: row["id"])
    assert died.exists()
    assert [row["id"] for row in found] == list(range(10))
    here = Explain(**quick)
    for i in range(0, 10, 2):
        wanted = here({name: column([item[name] for item in items[i : i + 2]]) for name in ("id", "image", "target")})
        for b, row in enumerate(found[i : i + 2]):
            assert np.array_equal(row.pop("map"), wanted["map"][b], equal_nan=True)
            assert row == {name: values[b] for name, values in wanted.items() if name != "map"}


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_run_that_goes_on_on_ray_is_the_run_without(cluster, answering, folder, tmp_path):
    source = Photographs(folder, answering.model.preparation)
    common = {"batch_size": 2, "shard_size": 4, "overlays": "png", "class_names": answering.class_names}
    run(answering.explainer, source, tmp_path / "here", **common)

    def stop(done, total):
        if done == 4:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run(answering.explainer, source, tmp_path / "there", progress=stop, **common)
    options = ["--batch-size", "2", "--shard-size", "4", "--overlays", "png", "--ray-address"]
    command = [sys.executable, "-m", "cfcam_gpu", "run", folder, "--out", tmp_path / "there", "--model", SMALL.model]
    # A process of its own: this one is on the cluster already.
    done = subprocess.run([*command, *options, cluster], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert re.search(r"^4 of 10 images$.*^1 of 10 images failed$", done.stderr, re.MULTILINE | re.DOTALL), done.stderr
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_run_of_bands_on_ray_is_the_run_without(cluster, tmp_path):
    for i in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        np.save(tmp_path / "in" / f"{i}.npy", np.random.default_rng(i).integers(0, 9000, (24, 40, 4), np.uint16))
    asked = ["--model", "tests.named_models.test_own_input:four", "--layer", "conv", "--overlays", "png"]
    asked += ["--size", "16,24", "--mean", "0", "--std", "10000"]
    for place, options in {"here": ["--workers", "0"], "there": ["--ray-address", cluster]}.items():
        command = [
            sys.executable,
            "-m",
            "cfcam_gpu",
            "run",
            tmp_path / "in",
            "--out",
            tmp_path / place,
            *asked,
            *options,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here").glob("**/*.png"))) == 3
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
