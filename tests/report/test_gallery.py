"""The gallery of ``cfcam-gpu report``: what is told while it is drawn, and of which input its maps are."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from torch import nn

from cfcam_gpu.image_files.photos import Preparation
from cfcam_gpu.named_models import models
from cfcam_gpu.photographs import contact_sheet
from cfcam_gpu.report import page

from ..networks import two_scales

METHODS = ("gradcam", "cfcam")


def grey():
    """A network of one channel and two classes with names, and how its images are made."""
    network = nn.Sequential(nn.Conv2d(1, 3, 1), *two_scales())
    network.class_names = ["ash", "beech", "cedar", "dogwood"]
    return network, Preparation(224, 224, Image.Resampling.BILINEAR, mean=(0.5,), std=(0.5,))


@pytest.fixture
def job(tmp_path):
    """A page of two methods and two photographs, of a summary with what is given."""

    def call(**given):
        line = {"metric": "average_drop", "better": "low", "images": 2, "errors": 0, "difference": None}
        mean = {"mean": 10.0, "low": 5.0, "high": 15.0}
        summary = {
            "suite": "faithfulness", "model": "tests.networks:two_scales", "trained": True, "device": "cpu",
            "versions": {"cfcam_gpu": "0.1.0"}, "seed": 0, "reference": "gradcam",
            "methods": {name: ["4"] for name in METHODS},
            "table": [{**line, "method": name, "mean": mean} for name in METHODS],
        }  # fmt: skip
        (tmp_path / "a.json").write_text(json.dumps({**summary, **given}))
        photographs = [tmp_path / f"{seed}.png" for seed in range(2)]
        for seed, path in enumerate(photographs):
            noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(noise).resize((224, 224)).save(path)
        return page.Job(
            results=[tmp_path / "a.json"], out=tmp_path / "page.html", photographs=photographs, trust_models=True
        )

    return call


def written(job):
    assert page.check(job).write(lambda count: None) == []
    return " ".join(job.out.read_text().split())


def pixels(found):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")).astype(int)


def test_progress_counts_models_and_maps(job):
    loaded, drawn = [], []
    found = page.check(job(), lambda *counts: loaded.append(counts))
    assert loaded == [(0, 1), (1, 1)]
    assert found.steps == 2 * (len(METHODS) + 1)
    found.write(drawn.append)
    assert drawn == [1] * found.steps


@pytest.mark.parametrize("other", [False, True])
def test_maps_of_another_input_than_was_measured_are_told(job, other):
    own = repr(models.load("tests.networks:two_scales").preparation)
    html = written(job(input={"preparation": own.replace("224", "320") if other else own, "classes": None}))
    assert ("these maps are not those that were measured" in html) == other


def test_maps_are_of_the_input_and_the_names_that_were_measured(job):
    names = ["ash", "beech", "cedar", "dogwood"]
    asked = {"size": [96, 128], "channels": None, "mean": [0.4], "std": [0.2]}
    found = page.check(job(input={"preparation": "as asked", "classes": "a.txt", "class_names": names, "asked": asked}))
    (gallery,) = found.galleries
    wants = gallery.model.preparation
    assert (wants.height, wants.width, wants.mean, wants.std) == (96, 128, (0.4,) * 3, (0.2,) * 3)
    found.write(lambda count: None)
    assert re.search(r"<h4>(ash|beech|cedar|dogwood) <span", " ".join(found.job.out.read_text().split()))


def test_the_gallery_says_what_its_colours_mean(job):
    found = re.search(
        r'class="scale"><span>no evidence</span><img src="data:image/png;base64,([^"]+)" .*?<span>strongest',
        written(job()),
    )
    assert np.array_equal(pixels(found), np.asarray(contact_sheet.color_scale()))


def test_a_model_of_one_channel_has_its_photographs_in_grey_and_its_own_names(job):
    html = written(job(model="tests.report.test_gallery:grey"))
    found = pixels(re.search(r'<img src="data:image/webp;base64,([^"]+)" alt="0.png"', html))
    assert np.ptp(found, axis=2).max() < 12
    assert found.std() > 10
    assert re.search(r"<h4>(ash|beech|cedar|dogwood) <span", html)
