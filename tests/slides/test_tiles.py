"""The plan of a slide's tiles."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfcam_gpu.scans.errors import UnreadableError
from cfcam_gpu.slides.info import Level, SlideInfo
from cfcam_gpu.slides.tiles import plan, working_scale
from cfcam_gpu.slides.tissue import Tissue


def slide(width=1000, height=800, mpp=(0.25, 0.25)):
    level = Level(width, height, 1.0, (0,))
    return SlideInfo("s.tif", width, height, (level,), mpp, None, "TIFF", "tifffile", "", 1, 1)


def tissue_of(mask, scale):
    return Tissue(mask, np.zeros((*mask.shape, 3), np.uint8), Fraction(scale))


def test_the_scale_that_is_asked_for():
    assert working_scale(slide(), None) == 1
    assert working_scale(slide(), 0.5) == 2
    assert working_scale(slide(mpp=(0.2528, 0.2526)), 0.5) == 2  # a level's, within 2 %
    assert working_scale(slide(mpp=(0.23, 0.23)), 0.5) == Fraction(0.5 / 0.23).limit_denominator(64)
    assert working_scale(slide(mpp=(0.502, 0.502)), 0.5) == 1


def test_the_scale_that_can_not_be():
    with pytest.raises(ValueError, match=r"mpp: expected at least 1, that of the slide's finest level; got 0\.5"):
        working_scale(slide(mpp=(1.0, 1.0)), 0.5)
    with pytest.raises(ValueError, match=r"mpp: expected none, as the slide's file does not say .* got 0.5"):
        working_scale(slide(mpp=None), 0.5)
    with pytest.raises(ValueError, match=r"mpp: expected at most 3\.906, .*1,000 pixels of 0\.25 .* got 1e\+06"):
        working_scale(slide(), 1e6)
    assert working_scale(slide(), 3.9) == Fraction(3.9 / 0.25).limit_denominator(64)
    assert working_scale(slide(10, 10), 0.25) == 1
    with pytest.raises(UnreadableError, match=r"0.25 x 0.5 micrometres"):
        working_scale(slide(mpp=(0.25, 0.5)), 0.5)


WRONG = [{"tile": 0}, {"overlap": 1.0}, {"overlap": -0.1}, {"scale": Fraction(1, 2)}]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_plan_can_not_be(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected"):
        plan(slide(), None, **{"scale": Fraction(1), **wrong})


def test_all_of_a_slide_row_by_row():
    found = plan(slide(), None, scale=Fraction(2), tile=224, overlap=0.5)
    assert (found.width, found.height, found.stride, found.columns, found.rows) == (500, 400, 112, 4, 3)
    assert found.mpp == 0.5
    assert found.places.tolist() == [[column, row] for row in range(3) for column in range(4)]
    assert found.region(5).extent == (224.0, 224.0, 672.0, 672.0)
    assert len(plan(slide(10, 10), None, scale=Fraction(1))) == 1


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    tile=st.integers(1, 300),
    overlap=st.floats(0, 0.9),
    scale=st.fractions(1, 9, max_denominator=64),
    step=st.sampled_from([1, 2, 16]),
    seed=st.integers(0, 9),
)
def test_all_tissue_is_covered_and_nothing_else(width, height, tile, overlap, scale, step, seed):
    tile = max(tile, max(width, height) // 40)
    mask = np.random.default_rng(seed).random((-(-height // step), -(-width // step))) < 0.003
    found = plan(slide(width, height), tissue_of(mask, step), scale=scale, tile=tile, overlap=overlap)
    whole = plan(slide(width, height), None, scale=scale, tile=tile, overlap=overlap)
    # The tiles cover the slide, and the last of each row and column begins on it.
    assert (whole.columns - 1) * whole.stride + tile >= whole.width
    assert (whole.rows - 1) * whole.stride + tile >= whole.height
    assert whole.columns == 1 or (whole.columns - 1) * whole.stride < whole.width
    # In order, and of those of the whole.
    order = (found.places[:, 1] * found.columns + found.places[:, 0]).tolist()
    assert order == sorted(set(order))
    assert set(order) <= set(range(len(whole)))
    # Each pixel of tissue is in a tile that was taken, and each that was taken has some.
    covered = np.zeros_like(mask)
    for index in range(len(found)):
        left, upper, right, lower = (max(edge, 0) / step for edge in found.region(index).extent)
        part = np.s_[int(upper) : int(np.ceil(lower)), int(left) : int(np.ceil(right))]
        covered[part] = True
        assert mask[part].any()
    assert not (mask & ~covered).any()


def test_tissue_is_near_the_middle_of_a_tile():
    mask = np.zeros((800, 1000), bool)
    mask[400, 500] = True
    found = plan(slide(), tissue_of(mask, 1), scale=Fraction(1), tile=100, overlap=0.5)
    assert len(found) == 1
    left, upper, right, lower = found.region(0).extent
    assert left + 25 <= 500 < right - 25
    assert upper + 25 <= 400 < lower - 25


def test_nothing_drifts_along_a_long_row():
    found = plan(slide(10**6, 300), None, scale=Fraction(139, 64), tile=224, overlap=0.5)
    last = found.region(found.columns - 1)
    assert last.extent[0] == (found.columns - 1) * 112 * 139 / 64
    assert last.extent[2] >= 10**6 > last.extent[0]
