"""Thousands of calls in a row: nothing grows."""

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
@pytest.mark.parametrize(
    "calls", [400, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)], id="ten thousand")]
)
def test_memory_and_hooks_do_not_grow_over_thousands_of_calls(calls):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
    ).eval()
    images = torch.randn(1, 3, 24, 24)
    explain = CFCAM(model, "0")

    def state():
        gc.collect()
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
        things = gc.get_objects()
        return hooks, sum(issubclass(type(thing), torch.Tensor) for thing in things), len(things), resident()

    for _ in range(100):
        explain(images)
    hooks, tensors, objects, before = state()
    for _ in range(calls):
        explain(images)
    after = state()
    assert after[:2] == (hooks, tensors)
    assert hooks == 0
    assert after[2] - objects < calls // 10
    # An activation is 23 KB, and a graph keeps one; in ten thousand calls even 500 bytes of each show.
    assert after[3] - before < 4 << 20
