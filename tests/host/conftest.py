import pytest
import torch

from bench.kernel_calls import allocate_apart
from cfcam_gpu.engines import fused

from .emulator import SANITIZER


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory holds NaN and the largest integers, so that what a kernel left out shows; its ends show, too."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    if SANITIZER is not None:
        monkeypatch.setattr(fused, "allocate", allocate_apart)
    yield
    torch.use_deterministic_algorithms(before)
