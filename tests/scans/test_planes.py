"""The picture of a volume: planes through the peak, square pixels, and the patient's sides."""

import numpy as np
import pytest

from cfcam_gpu.scans import planes
from cfcam_gpu.scans.grid import Grid

from . import phantoms

#: Left and upper corner of each plane's room.
ROOMS = {
    "coronal": (planes.GAP, planes.GAP),
    "sagittal": (2 * planes.GAP + planes.SIDE, planes.GAP),
    "axial": (planes.GAP, 2 * planes.GAP + planes.SIDE),
}


def room(picture, name):
    left, top = ROOMS[name]
    return np.asarray(picture)[top : top + planes.SIDE, left : left + planes.SIDE].astype(int)


def ball(affine, at=(0, 0, 0), radius=12):
    """A volume with a white ball of the world, and its grid."""
    grid = phantoms.grid(affine)
    places = grid.world(np.moveaxis(np.indices(grid.shape), 0, -1))
    middle = grid.world((np.array(grid.shape) - 1) / 2)
    distances = np.linalg.norm(places - middle - at, axis=-1)
    return np.where(distances < radius, 200, 0).astype(np.uint8), grid


@pytest.mark.parametrize("name", phantoms.AFFINES)
def test_a_ball_is_round_in_every_plane(name):
    shades, grid = ball(phantoms.AFFINES[name])
    found = planes.draw(shades, grid, np.zeros(grid.shape, np.float32), grid, placed=False)
    for plane in ROOMS:
        grey = room(found.plain, plane)[..., 2]
        seen = (grey > 100) & (grey < 250)  # without the cross
        rows, columns = np.nonzero(seen)
        assert len(rows) > 1000
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.15)


@pytest.mark.parametrize("name", phantoms.AFFINES)
def test_the_patients_right_is_on_the_left_front_and_head_are_up(name):
    """Whatever the order and direction of the volume's own axes."""
    for at, plane, axis, sign in [
        ((10, 0, 0), "coronal", 1, -1),
        ((10, 0, 0), "axial", 1, -1),
        ((0, 10, 0), "axial", 0, -1),
        ((0, 10, 0), "sagittal", 1, -1),
        ((0, 0, 10), "coronal", 0, -1),
        ((0, 0, 10), "sagittal", 0, -1),
    ]:
        shades, grid = ball(phantoms.AFFINES[name], at, radius=8)
        plain = planes.draw(shades, grid, np.zeros(grid.shape, np.float32), grid).plain
        grey = room(plain, plane)[..., 2]
        where = np.nonzero((grey > 100) & (grey < 250))[axis].mean()
        assert (where - planes.SIDE / 2) * sign > 10


@pytest.mark.parametrize("name", phantoms.AFFINES)
def test_planes_go_through_the_peak_and_show_it_in_colour(name):
    grid = phantoms.grid(phantoms.AFFINES[name])
    evidence = phantoms.volume().T / 100
    found = planes.draw(np.full(grid.shape, 60, np.uint8), grid, evidence, grid, placed=False)
    assert found.place == pytest.approx(phantoms.spot(phantoms.AFFINES[name]), abs=1e-6)
    for plane in ROOMS:
        pixels = room(found.overlay, plane)
        red = pixels[..., 0] - pixels[..., 2]
        rows, columns = np.nonzero(red > 60)
        # The cross is broken at the peak: its lines are the brightest row and column.
        grey = room(found.plain, plane).min(axis=-1)
        row, column = (grey > 250).sum(axis=1).argmax(), (grey > 250).sum(axis=0).argmax()
        assert (rows.mean(), columns.mean()) == pytest.approx((row, column), abs=6)


def test_a_map_on_another_grid_lies_in_the_same_place():
    grid = phantoms.grid(phantoms.AFFINES["oblique"])
    evidence = phantoms.volume().T / 100
    shades = np.full(grid.shape, 60, np.uint8)
    own = np.asarray(planes.draw(shades, grid, evidence, grid).overlay).astype(int)
    turned, onto = grid.oriented(evidence, "RAS")
    same = np.asarray(planes.draw(shades, grid, turned, onto).overlay).astype(int)
    assert np.abs(own - same).max() <= 2
    padded = grid.within((-5, -5, -5), (1, 1, 1), tuple(side + 10 for side in grid.shape))
    larger = planes.draw(shades, grid, grid.sampled(evidence, padded), padded)
    assert np.abs(own - np.asarray(larger.overlay)).mean() < 0.1


def test_a_volume_that_says_no_place_has_no_letters():
    shades, grid = ball(phantoms.AFFINES["RAS"])
    empty = np.zeros(grid.shape, np.float32)
    found = [planes.draw(shades, grid, empty, grid, placed=placed).plain for placed in (True, False)]
    yellow = [(np.abs(np.asarray(each).astype(int) - planes._LETTERS).max(axis=-1) < 10).sum() for each in found]
    assert yellow[0] > 50
    assert yellow[1] == 0


def test_a_thin_volume_is_drawn():
    grid = Grid((1, 64, 64), np.diag([5.0, 1.0, 1.0, 1.0]))
    found = planes.draw(np.zeros(grid.shape, np.uint8), grid, np.ones(grid.shape, np.float32), grid)
    assert found.plain.size == found.overlay.size
