"""Ten thousand calls in a row: nothing grows."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_hooks_do_not_grow_over_ten_thousand_calls():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
    ).eval()
    images = torch.randn(1, 3, 10, 10)
    explain = CFCAM(model, "0")

    def state():
        gc.collect()
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
        return hooks, sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()), resident()

    for _ in range(500):
        explain(images)
    hooks, tensors, before = state()
    for _ in range(10_000):
        explain(images)
    assert state()[:2] == (hooks, tensors)
    assert hooks == 0
    # A kept graph or hook of even 500 bytes a call would show as 5 MB.
    assert state()[2] - before < 4 << 20
