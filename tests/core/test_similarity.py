"""Whether what comes again is what was before, but for arithmetic, and what correlates with NaN."""

import pytest
import torch

from cfcam_gpu.core.similarity import is_same, pearson, spearman


@pytest.mark.parametrize(
    ("dtype", "off", "same"),
    [
        (torch.float32, 0.005, True),
        (torch.float32, 0.03, False),
        (torch.float16, 0.005, True),
        (torch.float16, 0.03, False),
        (torch.bfloat16, 0.03, True),
        (torch.bfloat16, 0.1, False),
    ],
)
def test_rounding_is_allowed_for_by_the_dtype(dtype, off, same):
    before = torch.tensor([[4.0, -2.0, 0.5], [0.1, 0.2, -0.4]])
    again = before + torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.4 * off, 0.0]])
    assert is_same(again.to(dtype), before.to(dtype)) == same


def test_infinity_is_the_same_as_itself_alone():
    before = torch.tensor([[1.0, -torch.inf]])
    assert is_same(before.clone(), before)
    assert not is_same(torch.tensor([[1.0, -1e30]]), before)
    assert not is_same(torch.tensor([[-torch.inf, -torch.inf]]), before)
    assert not is_same(before[:, :1], before)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_correlation_with_nan_is_nan(correlation):
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    spoilt = maps.clone()
    spoilt[0, 1, 2] = torch.nan
    spoilt[1] = torch.nan
    for found in (correlation(spoilt, maps), correlation(maps, spoilt), correlation(torch.ones_like(maps), spoilt)):
        assert found.isnan().tolist() == [True, True, False]
