"""Maps of tiles blended into one: no seams, whatever the tiling, and nothing depends on where it was stopped."""

from fractions import Fraction

import numpy as np
import pytest

from cfcam_gpu.slides.stitching import CELL, Stitching
from cfcam_gpu.slides.tiles import Plan


def plan(width, height, tile, stride, *, but=()):
    columns, rows = (1 + max(0, -(-(side - tile) // stride)) for side in (width, height))
    places = [(x, y) for y in range(rows) for x in range(columns) if (x, y) not in but]
    return Plan(Fraction(2), 1.0, width, height, tile, stride, columns, rows, np.array(places, np.int64))


def field(width, height):
    """Something smooth, at each pixel."""
    y, x = np.mgrid[:height, :width]
    return (2 + np.sin(x / 40) + np.cos(y / 55) * np.sin(x / 90)).astype(np.float32)


def blended(plan, maps, probability=lambda x, y: 0.5):
    """The whole map of what `maps` gives of each tile's place, and that of its probability: (2, h, w)."""
    stitching = Stitching(plan, 1)
    whole = np.full((1, 2, stitching.height, stitching.width), np.inf, np.float32)
    for index in range(len(plan)):
        for first, values in stitching.finished(index):
            whole[:, :, first : first + values.shape[2]] = values
        x, y = plan.corners[index]
        stitching.add(index, maps(x, y)[None], np.array([probability(x, y)], np.float32))
        assert len(stitching.weight) <= plan.tile / CELL + 2
    for first, values in stitching.finished(len(plan)):
        whole[:, :, first : first + values.shape[2]] = values
    return whole[0]


def stitched(plan, maps):
    return blended(plan, maps)[0]


def means(values):
    """Of each cell, as far as it lies inside."""
    height, width = values.shape
    return np.array(
        [[values[y : y + CELL, x : x + CELL].mean() for x in range(0, width, CELL)] for y in range(0, height, CELL)]
    )


@pytest.mark.parametrize(("tile", "stride"), [(224, 112), (100, 37), (64, 64), (225, 56), (96, 5)])
def test_a_field_comes_back_whatever_the_tiling(tile, stride):
    width, height = 517, 301
    values = field(width + tile, height + tile)
    found = stitched(plan(width, height, tile, stride), lambda x, y: values[y : y + tile, x : x + tile])
    expected = means(values[:height, :width])
    # Of a cell that a tile covers in part, the tile knows that part alone.
    off = np.abs(found - expected)
    assert off.max() < (1e-5 if tile % CELL == 0 == stride % CELL else 0.1)
    assert off.mean() < 2e-3


@pytest.mark.parametrize(("tile", "stride", "size"), [(224, 112, 224), (100, 37, 224), (300, 150, 224), (61, 30, 7)])
def test_a_constant_stays_one_at_whatever_size_the_network_sees_it(tile, stride, size):
    found = stitched(plan(700, 500, tile, stride), lambda x, y: np.full((size, size), 0.7, np.float32))
    assert np.abs(found - 0.7).max() < 1e-5


def test_a_map_that_is_brought_to_another_size_lies_where_it_lay():
    tile, size = 160, 40
    half = np.zeros((size, size), np.float32)
    half[:, size // 2 :] = 1  # from the tile's middle on
    found = stitched(plan(160, 160, tile, tile), lambda x, y: half)
    assert np.array_equal(found, np.repeat([[0, 1]], 10, axis=1).reshape(1, 20).repeat(20, axis=0))


def test_there_is_no_step_where_a_tile_begins():
    # Each tile says another constant: what is between them changes little by little.
    tile, stride = 224, 112
    found = stitched(plan(1120, 224, tile, stride), lambda x, y: np.full((tile, tile), (x // stride) % 2, np.float32))
    assert np.abs(np.diff(found, axis=1)).max() < 0.12  # a step would be 1
    assert found[:, 14:-14].std() > 0.3


def test_a_probability_is_that_of_a_map_which_says_the_same_all_over_the_tile():
    tiles = plan(517, 301, 100, 37)
    found = blended(tiles, lambda x, y: np.full((224, 224), (x + 2 * y) / 1000), lambda x, y: (x + 2 * y) / 1000)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert np.ptp(found[1]) > 0.5


def test_where_no_tile_is_there_is_no_map():
    holes = {(x, y) for x in range(2, 8) for y in range(8)} | {(x, y) for x in range(9) for y in range(3, 7)}
    found = stitched(plan(900, 900, 100, 100, but=holes), lambda x, y: np.ones((100, 100), np.float32))
    there = ~np.isnan(found)
    np.testing.assert_allclose(found[there], 1, rtol=1e-6)
    assert there[: 300 // 8, : 200 // 8].all()
    assert not there[:, -(-200 // 8) + 1 : 800 // 8 - 1][: 290 // 8].any()
    assert not there[320 // 8 : 690 // 8].any()
