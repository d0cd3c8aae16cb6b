"""``cfcam-gpu explain --method`` and its like, and ``cfcam-gpu methods``."""

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, methods
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import models
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.photographs import job

from .albums import album
from .test_cli import SMALL, explain, lines, run
from .transformers import transformer

__all__ = ["album"]

#: A forward for each channel, one behind the layer, several derivatives, and what CF-CAM looks like from there.
SOME = ["cfcam-paper", "layercam", "finercam", "shapleycam", "scorecam", "ablationcam", "randomcam"]


def images(files):
    model = models.load(SMALL)
    pixels = [model.preparation.pixels(photos.read(file))[None] for file in files]
    return model.module, [model.preparation.normalize(one) for one in pixels]


@pytest.mark.parametrize("name", SOME)
def test_a_method_gives_what_the_library_gives(name, album, tmp_path):
    done = explain(album, "--method", name, "--layer", "1", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert f"{methods.METHODS[name].title} of {SMALL}" in done.stderr
    found = lines(tmp_path / "out")
    module, inputs = images([line["file"] for line in found])
    for line, image in zip(found, inputs, strict=True):
        expected = CAM(module, "1", method=name)(image)
        np.testing.assert_allclose(np.load(tmp_path / "out" / line["map"]), expected.maps[0], atol=1e-5)
        assert (line["method"], line["layers"]) == (name, ["1"])
        assert line["target"] == int(expected.target[0])


@pytest.mark.parametrize(
    ("name", "model", "layers", "found_at"),
    [
        ("winsorcam", "tests.networks:two_scales", [], ["0", "3"]),
        ("winsorcam", "tests.networks:two_scales", ["0", "4"], ["0", "4"]),
        ("refinecam", "tests.networks:two_scales", [], ["2", "4"]),
        ("legrad", f"{__name__}:patches", [], ["blocks.0", "blocks.1"]),
        ("legrad", f"{__name__}:patches", ["blocks.0"], ["blocks.0"]),
    ],
)
@pytest.mark.parametrize("views", [[], ["flip"]])
def test_a_method_of_many_layers_takes_its_own_or_those_named(name, model, layers, found_at, views, album, tmp_path):
    options = [option for layer in layers for option in ("--layer", layer)]
    options += [option for view in views for option in ("--augment", view)]
    file = album / "a" / "x.png"
    done = explain(file, "--model", model, "--method", name, *options, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert f"layer{'s' * (len(found_at) > 1)} {' and '.join(found_at)}" in done.stderr
    (line,) = lines(tmp_path / "out")
    assert line["layers"] == found_at
    module = models.load(model).module
    (image,) = images([file])[1]
    expected = CAM(module, layers or None, method=name, augment=views)(image)
    np.testing.assert_allclose(np.load(tmp_path / "out" / line["map"]), expected.maps[0], atol=1e-5)


def patches():
    """A vision transformer with 7 x 7 patches of an image of 224 x 224."""
    model = transformer()
    model.patches = nn.Conv2d(3, 8, 32, 32, bias=False)
    with torch.no_grad():
        model.patches.weight.copy_(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) / 32)
    return model


def test_augment_smooth_and_fuse_are_the_librarys(album, tmp_path):
    options = ["--layer", "0", "--layer", "1", "--augment", "flip", "--augment", "rotate90", "--smooth", 2]
    options += ["--fuse", "max"]
    # One at a time: noise is drawn for a batch.
    done = explain(album, "--method", "gradcam", *options, "--batch-size", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "flip, rotate90, 2 noisy copies; layers 0 and 1" in done.stderr
    found = lines(tmp_path / "out")
    module, inputs = images([line["file"] for line in found])
    for line, image in zip(found, inputs, strict=True):
        expected = CAM(module, ["0", "1"], augment=["flip", "rotate90"], smooth=2, fuse="max")(image)
        np.testing.assert_allclose(np.load(tmp_path / "out" / line["map"]), expected.maps[0], atol=1e-5)


def test_the_check_of_a_job_runs_no_forward_for_each_channel(album, tmp_path, monkeypatch):
    calls = []
    build = models.load

    def counted(*given, **asked):
        model = build(*given, **asked)
        model.module.register_forward_hook(lambda module, args, output: calls.append(len(output)))
        return model

    monkeypatch.setattr(models, "load", counted)
    run = job.check(job.Job(paths=[album], out=tmp_path / "out", settings=Settings(model=SMALL, method="scorecam")))
    assert len(calls) <= 12, "to see where the layer is, and what a blank image gives"
    steps = []
    run.execute(lambda count: None, lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] >= 3 * 5, "live channels of three photographs"


def test_methods_are_listed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = run("methods")
    assert done.exit_code == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    for name, method in methods.METHODS.items():
        assert all(said in rows[name] for said in (method.title, method.paper, method.cost))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "camcam"], "method: expected one of cfcam, "),
        (
            ["--method", "gradcam", "--preset", "paper"],
            "preset: paper is a form of the method cfcam; got the method gra",
        ),
        (["--method", "gradcam", "--components", 2], "components: only one look by the method cfcam has them"),
        (["--augment", "flip", "--components", 2], "components: only one look by the method cfcam has them"),
        (["--augment", "flop"], "augment: expected 'flip'"),
        (["--fuse", "sum"], "--fuse"),
        (["--smooth", -1], "--smooth"),
    ],
)
def test_bad_usage_is_refused_before_any_work(options, message, album, tmp_path):
    done = explain(album, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
