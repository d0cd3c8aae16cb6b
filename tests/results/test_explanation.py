"""The maps in other libraries' hands: which share their memory, and which have their own."""

import numpy as np
import pytest
import torch

from cfcam_gpu.core.config import Config
from cfcam_gpu.results.explanation import Explanation


@pytest.fixture
def result():
    fields = dict.fromkeys(("target", "logits", "labels", "weights", "eps"))
    raw_maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    return Explanation(raw_maps=raw_maps, **fields, layers=(), config=Config(), size=(6, 8))


def test_what_is_written_to_numpys_array_is_its_own(result):
    expected = result.maps.clone()
    array = result.numpy()
    np.testing.assert_array_equal(array, expected)
    array[:] = 0
    assert torch.equal(result.maps, expected)


def test_what_is_written_to_what_came_by_dlpack_is_its_own(result):
    expected = result.maps.clone()
    for array in (torch.from_dlpack(result), np.from_dlpack(result)):
        np.testing.assert_array_equal(array, expected)
        if not isinstance(array, np.ndarray) or array.flags.writeable:
            array[:] = 0
        assert torch.equal(result.maps, expected)


def test_who_asks_for_the_same_memory_gets_it(result):
    try:
        shared = torch.from_dlpack(result, copy=False)
    except TypeError:
        pytest.skip("this torch has no way to ask")
    assert shared.data_ptr() == result.maps.data_ptr()
    shared[:] = 0
    assert not result.maps.any()
