import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory holds NaN and the largest integers, so that what a kernel left out shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
