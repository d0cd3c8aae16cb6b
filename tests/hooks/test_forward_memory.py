"""Chunks within a memory budget: what a forward takes, and how many images fit."""

import pytest
import torch
from torch import nn

from cfcam_gpu.core.chunks import chunk_size
from cfcam_gpu.hooks.forward_memory import forward_bytes


def test_as_many_fit_as_the_budget_holds_and_never_none():
    assert chunk_size(100, 30) == 3
    assert chunk_size(90, 30) == 3
    assert chunk_size(29, 30) == 1
    assert chunk_size(5, 0) == 5


@pytest.mark.parametrize("memory", [0, -1, 1.5, True, "1 GiB"])
def test_a_budget_is_a_number_of_bytes(memory):
    with pytest.raises(ValueError, match="memory: expected a positive number of bytes; got"):
        chunk_size(memory, 1)


def test_a_forward_takes_twice_its_largest_input_and_output():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 5 * 5, 2))
    images = torch.zeros(2, 3, 5, 5)
    largest = 2 * 8 * 5 * 5 * 4  # into and out of the ReLU, float32
    assert forward_bytes(model, lambda: model(images), 2) == 2 * largest
    assert forward_bytes(model.half(), lambda: model(images.half()), 2) == largest
    assert not any(module._forward_hooks for module in model.modules())


def test_tensors_of_another_batch_are_not_counted():
    model = nn.ReLU()
    assert forward_bytes(model, lambda: [model(torch.zeros(1, 1000)), model(torch.zeros(2, 10))], 2) == 2 * 2 * 10 * 4


def test_hooks_are_gone_after_an_error():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        forward_bytes(model, lambda: model(torch.zeros(1, 4)), 1)
    assert not any(module._forward_hooks for module in model.modules())
