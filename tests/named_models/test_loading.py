"""A model by name and its explainer: the same whether images are looked at once or several times."""

import pytest
from PIL import Image

from cfcam_gpu import Config
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import loading, models
from cfcam_gpu.named_models.options import Settings
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
