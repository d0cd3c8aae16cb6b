"""A whole data set explained into a folder: what is in it, what becomes of bad images, what is refused."""

import logging
import multiprocessing
import time
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import CAM, CFCAM, pipelines
from cfcam_gpu.image_files import photos
from cfcam_gpu.pipelines import Photographs, bulk
from cfcam_gpu.pipelines.batches import BatchExplainer
from cfcam_gpu.pipelines.rows import COLUMNS
from cfcam_gpu.pipelines.store import ChangedError

from ..albums import small
from ..pipeline_jobs import TINY, contents, errors, explain, images, maps, photographs, rows


@pytest.fixture
def source(tmp_path):
    return photographs(tmp_path / "source", 10)


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
    monkeypatch.setattr(BatchExplainer, "__call__", lambda *args: pytest.fail("explained again"))
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
    assert [size for size in model[0][0].sizes if size > 1] == [5, 5], "another batch size may round otherwise"
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": list("abc")}, "class_names: expected a name for each of the 5 classes; got 3"),
        ({"target": 99}, r"target: class 99 is out of range for 5 classes \(0 to 4\)"),
        ({"target": -1}, r"target: class -1 is out of range for 5 classes \(0 to 4\)"),
    ],
)
@pytest.mark.parametrize("kind", ["photographs", "iterable"])
def test_classes_that_the_model_has_not_are_refused_before_anything_is_written(
    source, tmp_path, kind, options, message
):
    dataset = Photographs(source, TINY) if kind == "photographs" else [images(3)]
    with pytest.raises(ValueError, match=message):
        pipelines.run(CFCAM(small().eval(), "1"), dataset, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "explainer",
    [
        lambda model: CFCAM(model, "1", augment="flip"),
        lambda model: CAM(model, "1", method="layercam"),
        lambda model: CAM(model, ["0", "1"], method="gradcam", fuse="max", augment="flip"),
    ],
    ids=["views", "method", "layers"],
)
def test_any_explainer_will_do(tmp_path, explainer):
    x = images(5)
    found = pipelines.run(explainer(small().eval()), [x], tmp_path / "out", batch_size=5, dtype="float32")
    assert found.failed == 0
    np.testing.assert_array_equal(maps(tmp_path / "out")[:], explainer(small().eval())(x).maps)
    assert {row["clusters"] for row in rows(tmp_path / "out")} == {None}
    other = CAM(small().eval(), "1", method="hirescam")
    with pytest.raises(ChangedError, match="method was"):
        pipelines.run(other, [x], tmp_path / "out", batch_size=5, dtype="float32")


def test_volumes_and_signals(tmp_path):
    torch.manual_seed(0)
    volumes, signals = torch.rand(3, 1, 8, 12, 16), torch.rand(3, 2, 64)
    nets = {
        3: nn.Sequential(nn.Conv3d(1, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)),
        1: nn.Sequential(nn.Conv1d(2, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)),
    }
    for dims, x in ((3, volumes), (1, signals)):
        out, explainer = tmp_path / str(dims), CFCAM(nets[dims].eval(), "1")
        pipelines.run(explainer, [x[:2], x[2:]], out, batch_size=3, dtype="float32", spatial_dims=dims)
        np.testing.assert_array_equal(maps(out)[:], explainer(x).maps)
        assert pipelines.run(explainer, [x], out, batch_size=3, dtype="float32", spatial_dims=dims).before == 3
    assert [(row["depth"], row["height"], row["width"]) for row in rows(tmp_path / "3")] == [(8, 12, 16)] * 3
    with pytest.raises(ValueError, match="overlays: expected None, as only images have them"):
        pipelines.run(CFCAM(nets[3], "1"), [volumes], tmp_path / "no", overlays="png", spatial_dims=3)
    assert not (tmp_path / "no").exists()


def test_a_prepare_that_resizes_and_a_batch_that_fails(tmp_path):
    """What stands for maps that aren't there has the maps' size, which isn't the images'."""
    x = images(6)
    x[4:] = torch.nan
    found = pipelines.run(
        CFCAM(small().eval(), "1"),
        [x],
        tmp_path / "out",
        prepare=lambda x: nn.functional.interpolate(x, (64, 48)),
        batch_size=2,
        shard_size=2,
    )
    assert found.failed == 2
    assert maps(tmp_path / "out").shape == (6, 64, 48)
    np.testing.assert_array_equal(np.isnan(maps(tmp_path / "out")[:]).all((1, 2)), [False] * 4 + [True] * 2)


def test_one_images_class_that_the_model_has_not_is_its_rows_error(tmp_path):
    pipelines.run(CFCAM(small().eval(), "1"), [(images(3), [0, 99, None])], tmp_path / "out")
    assert [error and error[:33] for error in errors(tmp_path / "out").values()] == [
        None,
        "target: class 99 is out of range ",
        None,
    ]


def test_a_model_that_fails_on_a_blank_image_explains_the_others(tmp_path):
    def fail(module, args):
        if not args[0].any():
            raise ValueError("a blank image")

    model = small().eval()
    model.register_forward_pre_hook(fail)
    assert pipelines.run(CFCAM(model, "1"), [images(3)], tmp_path / "out", target=2).failed == 0


def test_where_all_fail_the_array_is_there(tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "source" / name).touch()
    assert explain(tmp_path / "source", tmp_path / "out").failed == 2
    assert maps(tmp_path / "out").shape == (2, 32, 32)
    assert np.isnan(maps(tmp_path / "out")[:]).all()


class Narrow(nn.Module):
    """A device that holds so many images at once, and after so many batches none."""

    def __init__(self, room, batches, error):
        super().__init__()
        self.room = room
        self.error = error
        self.batches = batches
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.room or len(self.sizes) > self.batches:
            raise self.error("CUDA out of memory. Tried to allocate 20 GiB")
        return x


def narrow(room, batches=1000, error=torch.cuda.OutOfMemoryError):
    return nn.Sequential(nn.Sequential(Narrow(room, batches, error), small()[0]), *small()[1:]).eval()


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_batch_and_goes_on(source, tmp_path, caplog, error):
    explain(source, tmp_path / "wide", batch_size=8, shard_size=8)
    model = narrow(3, error=error)
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        assert explain(source, tmp_path / "out", model=model, batch_size=8, shard_size=8).failed == 0
    assert [size for size in model[0][0].sizes if size > 1] == [8, 4, 2, 2, 2, 2, 2], (
        "the second batch isn't tried whole again"
    )
    assert "a batch of 8 does not fit: going on with 4" in caplog.text
    np.testing.assert_allclose(maps(tmp_path / "out")[:], maps(tmp_path / "wide")[:], atol=2e-3)
    assert [row["source"] for row in rows(tmp_path / "out")] == [row["source"] for row in rows(tmp_path / "wide")]


def test_no_room_for_a_single_image_stops_a_run_that_goes_on_later(source, tmp_path):
    options = {"batch_size": 2, "shard_size": 2}
    explain(source, tmp_path / "whole", model=narrow(8), **options)
    with pytest.raises(RuntimeError, match="out of memory with a single image"):
        explain(source, tmp_path / "out", model=narrow(8, batches=5), **options)
    assert explain(source, tmp_path / "out", model=narrow(8), **options).before == 6
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_reader_that_dies_stops_the_run_and_is_no_fault_of_an_image(source, tmp_path):
    """torch tells of it in the main thread, whatever that is at: explaining an image, here."""

    class Deadly(nn.Module):
        def __init__(self, batches):
            super().__init__()
            self.batches = batches

        def forward(self, x):
            readers = multiprocessing.active_children()
            self.batches -= len(readers)
            if readers and self.batches == -1:
                readers[0].kill()
                time.sleep(10)
            return x

    def dying(batches):
        return nn.Sequential(nn.Sequential(Deadly(batches), small()[0]), *small()[1:]).eval()

    options = {"batch_size": 1, "shard_size": 1}
    explain(source, tmp_path / "whole", model=dying(100), **options)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal"):
        explain(source, tmp_path / "out", model=dying(4), workers=1, **options)
    assert explain(source, tmp_path / "out", model=dying(100), workers=1, **options).failed == 0
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
