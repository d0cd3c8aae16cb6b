"""The place of voxels in the world: turned, cropped, padded, resized, and resampled back."""

import numpy as np
import pytest

from cfcam_gpu.scans.grid import Grid

from . import phantoms


@pytest.fixture(params=phantoms.AFFINES)
def affine(request):
    return phantoms.AFFINES[request.param]


@pytest.mark.parametrize("axcodes", ["SAR", "SPL", "RAS", "LPI", "ARS"])
def test_turning_moves_no_voxel(affine, axcodes):
    values, grid = phantoms.volume().T, phantoms.grid(affine)
    turned, onto = grid.oriented(values, axcodes)
    assert turned.shape == onto.shape
    assert sorted(turned.shape) == sorted(values.shape)
    place = np.unravel_index(turned.argmax(), turned.shape)
    assert onto.world(place) == pytest.approx(phantoms.spot(affine), abs=1e-9)
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for column, letter in enumerate(axcodes):
        along, sign = axes[letter]
        assert np.abs(onto.affine[:3, column]).argmax() == along
        assert np.sign(onto.affine[along, column]) == sign


def test_axes_in_front_of_those_of_space_stay(affine):
    values, grid = phantoms.volume().T, phantoms.grid(affine)
    both, _ = grid.oriented(np.stack([values, -values]), "RAS")
    np.testing.assert_array_equal(both[0], grid.oriented(values, "RAS")[0])
    np.testing.assert_array_equal(both[1], -both[0])


WAYS = {
    "turned": lambda grid: grid.oriented(np.empty(grid.shape, np.float32), "RAS")[1],
    "cropped": lambda grid: grid.within((2, 3, 5), (1, 1, 1), (20, 25, 30)),
    "padded": lambda grid: grid.within((-4, -4, -4), (1, 1, 1), tuple(side + 8 for side in grid.shape)),
    "resized": lambda grid: grid.resized((20, 40, 37)),
    "coarse": lambda grid: grid.resized((16, 16, 16)),
    "all": lambda grid: WAYS["padded"](WAYS["turned"](grid)).resized((33, 31, 35)),
    "another": lambda grid: phantoms.grid(phantoms.AFFINES["oblique"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_map_of_a_networks_input_comes_back_to_where_it_lies(affine, way):
    grid = phantoms.grid(affine)
    onto = WAYS[way](grid)
    there = grid.sampled(phantoms.volume().T, onto)
    off = np.linalg.norm(phantoms.centre_of(there, onto) - phantoms.spot(affine))
    assert off < min(grid.spacing) / 2
    back = onto.sampled(there, grid)
    assert back.shape == grid.shape
    index = np.abs(grid.index(phantoms.centre_of(back, grid)) - phantoms.SPOT[::-1])
    assert index.max() < 0.5


def test_resized_voxels_are_what_torch_makes_of_them():
    import torch

    values = torch.rand(9, 8, 7, generator=torch.Generator().manual_seed(0))
    grid = Grid((9, 8, 7), np.diag([2.0, 3.0, 1.5, 1.0]))
    expected = torch.nn.functional.interpolate(values[None, None], (13, 21, 10), mode="trilinear", align_corners=False)
    found = grid.sampled(values.numpy(), grid.resized((13, 21, 10)))
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


def test_outside_is_what_is_asked_for_and_begins_at_the_border_of_the_outermost_voxels():
    grid = Grid((4, 4, 4), np.eye(4))
    ones = np.ones(grid.shape, np.float32)
    found = grid.sampled(ones, grid.within((-0.49, -0.51, 0), (1, 1, 1), (4, 5, 4)), outside=-7)
    assert (found[:, 0] == -7).all()
    assert (found[:, 1:] == 1).all()


def test_the_nearest_voxel_keeps_labels():
    grid = Grid((6, 6, 6), np.eye(4))
    labels = np.random.default_rng(0).integers(0, 5, grid.shape).astype(np.float32)
    found = grid.sampled(labels, grid.resized((9, 11, 13)), order=0)
    assert set(np.unique(found)) <= set(range(5))
    np.testing.assert_array_equal(grid.sampled(labels, grid, order=0), labels)


def test_a_slice_is_a_volume_of_one():
    grid = Grid((1, 5, 5), np.diag([5.0, 1.0, 1.0, 1.0]))
    values = np.arange(25, dtype=np.float32).reshape(grid.shape)
    np.testing.assert_allclose(grid.sampled(values, grid.within((0.4, 0, 0), (1, 1, 1), grid.shape)), values)
    assert not grid.sampled(values, grid.within((0.6, 0, 0), (1, 1, 1), grid.shape)).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"order": 3}, "order: expected 0 or 1; got 3"), ({"values": np.zeros((2, 2, 2))}, "values: expected (4, 4, 4)")],
)
def test_what_cant_be_sampled_is_refused(options, said):
    grid = Grid((4, 4, 4), np.eye(4))
    with pytest.raises(ValueError) as caught:
        grid.sampled(options.pop("values", np.zeros(grid.shape)), grid, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize("axcodes", ["", "SA", "SAAR", "SAL R", "sar", "XYZ", "SIR"])
def test_what_are_no_axes_are_refused(axcodes):
    grid = Grid((4, 4, 4), np.eye(4))
    with pytest.raises(ValueError, match="axcodes: expected three letters"):
        grid.oriented(np.zeros(grid.shape, np.float32), axcodes)
