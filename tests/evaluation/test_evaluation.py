"""``cfcam-gpu bench``: the data it reads, what it measures, tells, writes and refuses."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu import CAM, CFCAM, Config, methods, metrics
from cfcam_gpu.cli import app
from cfcam_gpu.evaluation import candidates, data, evaluate, suites
from cfcam_gpu.named_models import models

from ..networks import two_scales

MODEL = "tests.networks:two_scales"
LAYERS = ("2", "4")
#: Of each suite what takes no time; ROAD and the cascade do.
FAST = {
    "faithfulness": "drop,insertion,adcc",
    "localisation": "energy,iou,grid2",
    "robustness": "gradient-noise,pixel-noise",
    "sanity": "classifier",
}
#: Of the images in `folder`: red, green, blue and all three, each in another corner.
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


@pytest.fixture
def folder(tmp_path):
    """Four images of four classes with exact masks, and one mosaic of them."""
    root = tmp_path / "data"
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 60, (4, 224, 224, 3), np.uint8)
    lines = ["file,mask,class_index,licence"]
    for i, colour in enumerate(COLOURS):
        mask = np.zeros((224, 224), bool)
        mask[i // 2 * 112 :, i % 2 * 112 :][:112, :112] = True
        Image.fromarray(np.where(mask[..., None], np.uint8(colour), noise[i])).save(root / f"{i}.png")
        Image.fromarray(mask).save(root / f"mask{i}.png")
        lines.append(f"{i}.png,mask{i}.png,{i},none")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    (root / "mosaics.csv").write_text("grid,files_row_major\n2,0.png;1.png;2.png;3.png\n")
    return root


def bench(suite, root, out, *args, model=MODEL):
    given = ["bench", suite, "--data", root, "--model", model, "--out", out, *args]
    return CliRunner().invoke(app, [str(arg) for arg in given], catch_exceptions=False)


def results(out, suite, model=MODEL):
    stem = f"{suite}-{model.replace(':', '_')}"
    return parquet.read_table(out / f"{stem}.parquet").to_pylist(), json.loads((out / f"{stem}.json").read_text())


def values(rows, method, metric):
    return {row["image"]: row["value"] for row in rows if (row["method"], row["metric"]) == (method, metric)}


def check(root, suite, out, model=MODEL, **options):
    return evaluate.check(evaluate.Job(suite=suite, data=root, out=out, model=model, **options))


def few(*methods):
    """Options for two of the images, with no reference beside these methods."""
    return {"methods": methods, "reference": methods[0], "limit": 2}


def inputs(root):
    """The images of `folder` as the network gets them, one class each, and their masks."""
    preparation = models.load(MODEL).preparation
    samples = [photograph.load(preparation) for photograph in data.read(root).photographs]
    return (torch.stack([getattr(sample, name) for sample in samples]) for name in ("image", "classes", "mask"))


def test_an_image_of_the_network_s_size_is_taken_as_it_is(folder):
    images, classes, masks = inputs(folder)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = np.asarray(Image.open(folder / "1.png")) / 255
    np.testing.assert_allclose(images[1].movedim(0, -1), (pixels - mean) / std, atol=1e-5)
    assert classes.tolist() == [[0], [1], [2], [3]]
    assert masks[1].sum() == 112 * 112
    assert masks[1, :112, 112:].all()


def test_a_mask_goes_the_way_of_its_image(folder):
    # 448 x 448, shrunk to 256 and cut to the central 224: the middle of the object's edge stays in the middle.
    for name in ("0.png", "mask0.png"):
        Image.open(folder / name).resize((448, 448), Image.Resampling.NEAREST).save(folder / name)
    sample = data.read(folder).photographs[0].load(models.load(MODEL).preparation)
    assert sample.image.shape == (3, 224, 224)
    assert torch.equal(sample.mask.nonzero().amax(dim=0), torch.tensor([111, 111]))
    assert sample.mask.sum() == 112 * 112


def test_a_mosaic_is_its_images_shrunk(folder):
    preparation = models.load(MODEL).preparation
    sample = data.read(folder).grids[0].load(preparation)
    assert sample.size == (224, 224)
    assert sample.classes.tolist() == [0, 1, 2, 3]
    # The first image's object is its upper left quarter: a sixteenth of the mosaic, pure red.
    red = preparation.normalize(torch.tensor(COLOURS[0], dtype=torch.uint8)[None, :, None, None])[0]
    torch.testing.assert_close(sample.image[:, :54, :54], red.expand(3, 54, 54))


def test_maps_of_a_mosaic_of_three_are_measured_where_three_divides(folder):
    photographs = data.read(folder).photographs
    grid = data.Grid("mosaic", 3, tuple(photographs[i % 4] for i in range(9)), 0)
    sample = grid.load(models.load(MODEL).preparation)
    assert (tuple(sample.image.shape), sample.size) == ((3, 224, 224), (225, 225))


def test_a_limit_spreads_over_the_folder(folder):
    found = data.read(folder)
    assert [one.name for one in found.limited(2).photographs] == ["0.png", "2.png"]
    assert found.limited(9) == found


def test_candidates_are_what_the_library_gives():
    model = two_scales().eval()
    images, classes = torch.randn(2, 3, 224, 224), torch.tensor([[1], [3]])
    there = candidates.find(model, images)
    # Without attention there is no LeGrad.
    assert set(there) == {*methods.METHODS, "layercam-fine", "gradcam*layercam-fine"} - {"legrad"}
    assert there["cfcam"].layers == LAYERS

    def maps(name):
        return there[name].maps(model, images, classes, (224, 224))[:, 0]

    explain = CFCAM(model)
    expected = explain(images, classes[:, 0])
    assert tuple(layer.name for layer in explain.layers) == LAYERS
    assert torch.equal(maps("cfcam"), expected.maps)
    for name, config in (("cfcam-one", Config()), ("cfcam-paper", Config.paper())):
        assert torch.equal(maps(name), CFCAM(model, "4", config=config)(images, classes[:, 0]).maps)
    fine = CAM(model, "2", method="layercam")(images, classes[:, 0]).maps
    coarse = CAM(model, "4", method="gradcam")(images, classes[:, 0]).maps
    assert torch.equal(maps("layercam-fine"), fine)
    fused = (fine * coarse).sqrt()
    torch.testing.assert_close(maps("gradcam*layercam-fine"), fused / fused.amax(dim=(1, 2), keepdim=True))
    for name in ("gradcam", "finercam", "scorecam", "ablationcam", "shapleycam"):
        assert torch.equal(maps(name), CAM(model, "4", method=name)(images, classes[:, 0]).maps)
    for name in ("refinecam", "winsorcam"):  # of layers that they choose themselves
        assert torch.equal(maps(name), CAM(model, method=name)(images, classes[:, 0]).maps)


@pytest.mark.parametrize("name", ["gradcam", "cfcam", "cfcam-one", "eigencam"])
def test_where_the_layers_are_in_the_image_is_found_once_a_model(name):
    model, images = two_scales().eval(), torch.rand(2, 3, 224, 224)
    candidate = candidates.find(model, images)[name]
    candidate.maps(model, images, torch.zeros(2, 1, dtype=torch.int64), (224, 224))
    batches = []
    model.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    candidate.maps(model, images, torch.ones(2, 1, dtype=torch.int64), (224, 224))
    assert batches == [2]


def test_a_network_of_one_scale_has_no_fine_candidates():
    model = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    there = candidates.find(model, torch.randn(1, 3, 224, 224))
    assert there["cfcam"].layers == there["gradcam"].layers
    assert not {"layercam-fine", "gradcam*layercam-fine"} & set(there)


def test_localisation_by_hand(folder, tmp_path):
    done = bench("localisation", folder, tmp_path / "out", "--methods", "cfcam")
    assert done.exit_code == 0, done.stderr
    rows, summary = results(tmp_path / "out", "localisation")
    images, classes, masks = inputs(folder)
    maps = CFCAM(two_scales().eval())(images, classes[:, 0]).maps.double()
    energy = [100 * float(one[mask].sum() / one.sum()) for one, mask in zip(maps, masks)]
    found = values(rows, "cfcam", "energy_pointing_game")
    assert found == pytest.approx({f"{i}.png": value for i, value in enumerate(energy)}, rel=1e-5)
    hits = [100.0 * bool(mask.flatten()[one.argmax()]) for one, mask in zip(maps, masks)]
    assert list(values(rows, "cfcam", "pointing_game").values()) == hits
    grid = data.read(folder).grids[0].load(models.load(MODEL).preparation)
    maps = CFCAM(two_scales().eval())(grid.image[None], grid.classes[None]).maps[0].double()
    cells = [maps[0, :112, :112], maps[1, :112, 112:], maps[2, 112:, :112], maps[3, 112:, 112:]]
    shares = [float(cell.sum() / whole.sum()) if whole.sum() else 0.0 for cell, whole in zip(cells, maps)]
    found = values(rows, "cfcam", "grid_2x2")
    assert found == pytest.approx({"mosaic 2x2, line 2": 100 * sum(shares) / 4}, rel=1e-5)
    # The reference is measured without being asked for.
    line = next(x for x in summary["table"] if (x["metric"], x["method"]) == ("energy_pointing_game", "cfcam"))
    other = values(rows, "gradcam", "energy_pointing_game")
    gains = [mine - other[f"{i}.png"] for i, mine in enumerate(energy)]
    assert line["mean"]["mean"] == pytest.approx(sum(energy) / 4)
    assert line["difference"]["mean"] == pytest.approx(sum(gains) / 4)
    assert line["difference"]["low"] <= sum(gains) / 4 <= line["difference"]["high"]
    assert (line["images"], line["errors"], line["better"]) == (4, 0, "high")
    assert "grid_3x3" not in {row["metric"] for row in rows}


def test_faithfulness_is_that_of_the_metrics(folder, tmp_path):
    chosen = ("--methods", "layercam-fine", "--metrics", "drop,insertion,deletion,adcc,single-deletion", "--step", 8000)
    done = bench("faithfulness", folder, tmp_path / "out", *chosen)
    assert done.exit_code == 0, done.stderr
    rows, summary = results(tmp_path / "out", "faithfulness")
    model = two_scales().eval()
    images, classes, _ = inputs(folder)
    maps = CAM(model, "2", method="layercam")(images, classes[:, 0]).maps
    change = metrics.confidence_change(model, images, maps, classes[:, 0])
    for metric, expected in (
        ("average_drop", change.drop),
        ("average_increase", change.increase),
        ("average_gain", change.gain),
        ("insertion_auc", 100 * metrics.insertion(model, images, maps, classes[:, 0], step=8000).auc),
        ("deletion_auc", 100 * metrics.deletion(model, images, maps, classes[:, 0], step=8000).auc),
        ("complexity", 100 * maps.double().mean(dim=(1, 2))),
        ("single_deletion", 100 * metrics.single_deletion(model, images, maps, classes[:, 0])),
    ):
        found = list(values(rows, "layercam-fine", metric).values())
        assert found == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-3), metric
    assert summary["options"]["step"] == 8000
    fractions = summary["fractions"]
    assert fractions == [*(8000 * i / 224**2 for i in range(7)), 1]
    for metric, given in (("insertion", metrics.insertion), ("deletion", metrics.deletion)):
        curve = given(model, images, maps, classes[:, 0], step=8000).scores.mean(dim=0)
        found = summary["curves"][f"{metric}_auc"]
        assert list(found) == ["gradcam", "layercam-fine"]
        assert found["layercam-fine"] == pytest.approx((100 * curve).tolist(), rel=1e-3, abs=1e-3)
        for line in (one for one in summary["table"] if one["metric"] == f"{metric}_auc"):
            area = torch.trapezoid(*map(torch.tensor, (found[line["method"]], fractions))).item()
            assert area == pytest.approx(line["mean"]["mean"], abs=1e-3)
    assert set(summary["versions"]) >= {"torch", "torchmetrics", "pyarrow", "cfcam_gpu"}


@pytest.mark.parametrize("suite", suites.SUITES)
def test_the_same_seed_gives_the_same_numbers_in_any_batch(folder, tmp_path, suite):
    only = ["--methods", "cfcam", "--reference", "cfcam", "--limit", 2, "--step", 20_000, "--metrics", FAST[suite]]
    for out, size in (("a", 1), ("b", 4)):
        chosen = [*only, "--batch-size", size]
        done = bench(suite, folder, tmp_path / out, *chosen)
        assert done.exit_code == 0, done.stderr
    first, second = ({tuple(row.values())[:3]: row["value"] for row in results(tmp_path / x, suite)[0]} for x in "ab")
    # To the last digits of float32, since the forward of a batch may add up in another order.
    assert first == pytest.approx(second, rel=1e-4, abs=1e-4)
    bench(suite, folder, tmp_path / "b", *chosen, "--overwrite")
    again = {tuple(row.values())[:3]: row["value"] for row in results(tmp_path / "b", suite)[0]}
    assert again == second


def sure():
    """The same network, whose probabilities are close to 0 and 1: noise in the pixels is seen in them."""
    model = two_scales().eval()
    model[-1].weight.data *= 30
    return model


def test_road_is_seeded_by_the_image(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "road", partial(metrics.road, percentiles=(50,)))  # of nine
    options = few("gradcam") | {"metrics": ["road"], "seed": 5, "model": f"{__name__}:sure"}
    run = check(folder, "faithfulness", tmp_path / "out", **options)
    run.execute(lambda count: None)
    images, classes, _ = (of_all[::2] for of_all in inputs(folder))
    maps = CAM(sure(), "4")(images, classes[:, 0]).maps

    def score(i, place):
        given = sure(), images[i : i + 1], maps[i : i + 1], classes[i]
        return 100 * metrics.road(*given, seed=5 + suites.ROAD_SEEDS * place).score.item()

    found = [row.value for row in run.rows]
    # To the last digits of float32: the maps come from two forwards.
    assert found == pytest.approx([score(0, place=0), score(1, place=2)], rel=1e-3, abs=1e-3)
    assert found[1] != pytest.approx(score(1, place=0), rel=1e-3, abs=1e-3)


def test_another_seed_gives_other_noise(folder, tmp_path):
    found = []
    for seed in (0, 7):
        run = check(folder, "robustness", tmp_path / "out", metrics=["pixel-noise"], seed=seed, **few("cfcam"))
        run.execute(lambda count: None)
        found.append([row.value for row in run.rows])
    assert all(a != b for a, b in zip(*found))


def test_noise_in_the_gradients_reaches_both_levels(folder, tmp_path):
    run = check(folder, "robustness", tmp_path / "out", metrics=["gradient-noise"], **few("eigencam", "cfcam"))
    run.execute(lambda count: None)
    by_method = {name: [row.value for row in run.rows if row.method == name] for name in ("eigencam", "cfcam")}
    assert by_method["eigencam"] == pytest.approx([100.0] * 2)
    assert max(by_method["cfcam"]) < 99.9


def test_sanity_of_a_method_that_ignores_the_class(folder, tmp_path):
    run = check(
        folder, "sanity", tmp_path / "out", metrics=["classifier", "class-sensitivity", "cascade"], **few("eigencam")
    )
    run.execute(lambda count: None)
    found = {name: [row.value for row in run.rows if row.metric == name] for name in {row.metric for row in run.rows}}
    assert found["classifier_randomisation_ssim"] == pytest.approx([100.0] * 2)
    assert found["class_agreement"] == [100.0] * 2
    assert max(found["cascade_correlation_last"]) < 99


def test_what_fails_is_counted_and_makes_no_denominator_smaller(folder, tmp_path):
    (folder / "1.png").write_bytes(b"no image")
    Image.new("1", (224, 224)).save(folder / "mask2.png")
    args = ("--methods", "cfcam", "--metrics", "energy,pointing,grid2")
    done = bench("localisation", folder, tmp_path / "out", *args, model="tests.networks:spoilt")
    assert done.exit_code == 1
    rows, summary = results(tmp_path / "out", "localisation", "tests.networks:spoilt")
    found = {row["image"]: row for row in rows if (row["method"], row["metric"]) == ("cfcam", "energy_pointing_game")}
    assert found["0.png"]["value"] is not None
    assert "not an image" in found["1.png"]["error"]
    assert "empty" in found["2.png"]["error"]
    assert "NaN" in found["3.png"]["error"]
    assert all(row["value"] is None for name, row in found.items() if name != "0.png")
    mosaic = next(row for row in rows if row["metric"] == "grid_2x2")
    assert "not an image" in mosaic["error"]
    for line in summary["table"]:
        failed = 3 if line["metric"] != "grid_2x2" else 1
        assert (line["errors"], line["mean"], line["difference"]) == (failed, None, None)
    assert "14 of 18 measurements failed" in done.stderr
    assert "3" in done.stdout


def test_a_value_that_is_no_number_is_an_error(folder, tmp_path):
    run = check(folder, "robustness", tmp_path / "out", methods=["gradcam"], metrics=["sensitivity"])
    infinite = suites.Measure({"x": "low"}, lambda case: (torch.tensor([math.inf]),))
    case = suites.Case(run.model.module, run.candidates[0], None, None, 0, 0, 1)
    assert run._values(infinite, case) == ["the value is inf"]


def test_a_method_that_takes_no_gradients_is_not_measured_under_noise_in_them(folder, tmp_path):
    done = bench("robustness", folder, tmp_path, "--methods", "scorecam", "--metrics", "gradient-noise", "--limit", 1)
    assert done.exit_code == 0, done.stderr
    rows, summary = results(tmp_path, "robustness")
    assert {row["method"] for row in rows} == {"gradcam"}
    assert [line["images"] for line in summary["table"]] == [1, 0]
    assert "does not apply" in done.stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("manifest.csv", "file,class_index\n0.png,1\n", "expected the columns file, mask, class_index; mask is not"),
        (
            "manifest.csv",
            "file,mask,class_index\n0.png,,cat\n",
            "line 2: class_index: expected a class index; got 'cat",
        ),
        ("manifest.csv", "file,mask,class_index\n0.png,,1\n0.png,,1\n", "line 3: 0.png is there twice"),
        ("manifest.csv", "file,mask,class_index\n9.png,,1\n", "9.png is not a file"),
        ("manifest.csv", "file,mask,class_index\n0.png,m.png,1\n", "m.png is not a file"),
        ("manifest.csv", "file,mask,class_index\n", "names no image"),
        ("mosaics.csv", "grid,files_row_major\n4,0.png\n", "line 2: grid: expected one of 2, 3; got '4'"),
        ("mosaics.csv", "grid,files_row_major\n2,0.png;1.png\n", "expected 4 files of manifest.csv; got 2 files"),
        ("mosaics.csv", "grid,files_row_major\n2,0.png;1.png;2.png;9.png\n", "got '9.png', which is not in manifest"),
        ("mosaics.csv", "grid,files_row_major\n2,0.png;1.png;2.png;2.png\n", "expected images of distinct classes"),
    ],
)
def test_wrong_tables_are_refused(folder, tmp_path, name, text, message):
    (folder / name).write_text(text)
    done = bench("localisation", folder, tmp_path / "out")
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "cfcam,gradcamp"], "methods: expected one of gradcam, "),
        (["--reference", "best"], "reference: expected one of gradcam, "),
        (["--metrics", "energy,road"], "metrics: expected one of energy, pointing, iou, grid2, grid3; got 'road'"),
        (["--metrics", "grid3"], "has no image for grid3"),
        (["--step", "60000"], "step: expected a number of pixels from 1 to 50176; got 60000"),
        (["--data", "nowhere"], "data: nowhere is not a folder"),
    ],
)
def test_wrong_options_are_refused(folder, tmp_path, args, message):
    done = bench("localisation", folder, tmp_path / "out", *args)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_a_class_that_the_model_does_not_have_is_refused(folder, tmp_path):
    (folder / "manifest.csv").write_text("file,mask,class_index\n0.png,mask0.png,4\n")
    (folder / "mosaics.csv").unlink()
    done = bench("localisation", folder, tmp_path / "out")
    assert (done.exit_code, "0.png is of class 4; " + MODEL + " has 4 classes" in done.stderr) == (2, True), done.stderr


def test_results_are_not_written_over(folder, tmp_path):
    args = ("localisation", folder, tmp_path / "out", "--methods", "gradcam", "--metrics", "energy")
    assert bench(*args).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    done = bench(*args, "--limit", 1)
    assert (done.exit_code, "would be written over" in done.stderr) == (2, True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert bench(*args, "--limit", 1, "--overwrite").exit_code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} != before
