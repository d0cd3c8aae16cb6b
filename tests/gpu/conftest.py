"""What the tests on a GPU share."""

import warnings

import pytest
import torch

from cfcam_gpu import engines
from cfcam_gpu.engines import rapids

from ..conftest import unavailable
from .layers import random


@pytest.fixture(scope="session", autouse=True)
def imported():
    """RAPIDS, imported once with its warnings left to itself; the reason where that can't be."""
    if not torch.cuda.is_available():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rapids.why_missing()


@pytest.fixture
def cupy(imported):
    import cupy

    return cupy


@pytest.fixture
def engine(imported):
    """The engine, or the end of the test where this machine lacks it."""
    if imported is not None:
        unavailable(f"rapids is missing: {imported}", "RAPIDS")
    return rapids


@pytest.fixture
def fused():
    """The fused engine, or the end of the test where this machine lacks it."""
    found = engines.load("fused")
    if found.why_missing() is not None:
        unavailable(f"fused is missing: {found.why_missing()}")
    return found


@pytest.fixture(params=["auto", "rapids", "fused"])
def running(request):
    """The name of each engine in turn, or the end of the test where this machine lacks it."""
    if request.param != "auto":
        request.getfixturevalue({"rapids": "engine", "fused": "fused"}[request.param])
    return request.param


@pytest.fixture
def exact(monkeypatch):
    """Convolutions in all of float32, and of the same bytes every time."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture
def device():
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def layer():
    """Activations (3, 200, 9, 7) with dead channels and gradients of two targets, on the GPU."""
    return random(0, 3, 2, 200, 9, 7)
