"""Graphs without a GPU; see tests/recorder.py."""

import pytest

from cfcam_gpu import CFCAM, targets
from cfcam_gpu.explain.cuda_graph import GraphedCFCAM

from .. import recorder
from ..recorder import FUSED
from ..small import CONFIGS, LAYERS, Network, draw


@pytest.fixture
def model():
    return Network().eval()


@pytest.fixture
def graphed(monkeypatch, model):
    """Graphs on the host, with the explainer's own plan."""
    recorder.install(monkeypatch)

    def make(target=None, *, config="default", overlay=False, engine=FUSED, images=None, using=model):
        explain = CFCAM(using, LAYERS[config], config=CONFIGS[config])
        images = draw(0) if images is None else images
        request = targets.read(target, len(images))
        plan = explain._laid_out(images, request)
        return GraphedCFCAM(using, plan, engine, images, request, explain._class_names, overlay=overlay), explain

    return make
