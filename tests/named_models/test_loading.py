"""A model by name and its explainer: the same whether images are looked at once or several times."""

from dataclasses import replace

import pytest
from PIL import Image

from cfcam_gpu import Config, engines
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import loading, models
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.pipelines import explainers
from cfcam_gpu.service.explainers import Explainers
from tests.small import Network
from tests.transformers import transformer

TAKES = photos.Preparation(24, 24, Image.Resampling.BILINEAR, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("asked", "config", "libragrad"),
    [
        ({}, Config.gated(), True),
        ({"libragrad": False}, Config.gated(), False),
        ({"layers": ("blocks.0",)}, Config.gated(), True),
        ({"preset": "broad"}, Config.gated("broad"), True),
        ({"preset": "paper"}, Config.paper(), False),
    ],
)
def test_further_looks_are_the_same_explanation(monkeypatch, asked, config, libragrad):
    found = models.Model(name="some", module=transformer(), takes=TAKES, trained=True)
    monkeypatch.setattr(models, "load", lambda spec, weights, **asked: found)
    for looks in ({}, {"augment": ("flip",)}, {"smooth": 2}):
        loaded = loading.load_model(Settings(model="some", **asked, **looks))
        explanation = loaded.explain(TAKES.normalize(TAKES.blank(1)))
        assert (explanation.config, loaded.explain.libragrad) == (config, libragrad)
        assert explanation.layers[0].name == loaded.layers[0].name


def test_the_engine_is_the_one_of_the_layer_and_auto_stays_auto(monkeypatch):
    """For a layer that the fused engine does not cover, "auto" is another one; which was found on one image's size."""
    asked = []

    def resolve(name, device, *, config=None, shape=None):
        asked.append(shape)
        return name if name != "auto" else "cpu" if shape is None else "reference"

    monkeypatch.setattr(engines, "resolve", resolve)
    found = models.Model(name="some", module=Network().eval(), takes=TAKES, trained=True)
    monkeypatch.setattr(models, "load", lambda spec, weights, **asked: found)
    settings = Settings(model="some", layers=("early", "late"))
    loaded = loading.load_model(settings)
    assert loaded.engine == "reference"
    assert asked[-1] == (1, 1, 24, 24, 24)
    result = loaded.explain(TAKES.normalize(TAKES.blank(1)))
    assert explainers.facts(loaded.explain, result, loaded.device)["engine"] == "reference"
    assert loading.load_model(replace(settings, augment=("flip",))).explain.engine == "auto"
    assert Explainers(settings, loaded).of("cfcam-paper").engine == "auto"
