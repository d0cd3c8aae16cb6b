"""Pointing games and IoU: by hand, in plain loops, and beside Quantus."""

import numpy as np
import pytest
import torch

from cfcam_gpu.metrics import best_iou, energy_pointing_game, grid_pointing_game, mosaic, pointing_game

ALL = [energy_pointing_game, pointing_game, best_iou]


@pytest.fixture
def maps():
    return torch.tensor(
        [
            [[0.1, 0.2, 0.0], [0.4, 1.0, 0.3]],
            [[0.5, 1.0, 1.0], [1.0, 0.0, 0.5]],  # the maximum three times, once on the object
            [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        ]
    )


@pytest.fixture
def masks():
    return torch.tensor([[[0, 1, 0], [0, 1, 0]], [[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)


def test_energy_pointing_game_by_hand(maps, masks):
    np.testing.assert_allclose(energy_pointing_game(maps, masks), [1.2 / 2, 2 / 4, 0], rtol=1e-6)


def test_pointing_game_by_hand(maps, masks):
    """The flat map scores what the mask covers: the chance of a pixel drawn at random."""
    np.testing.assert_allclose(pointing_game(maps, masks), [1, 1 / 3, 2 / 6])


def test_best_iou_by_hand(maps, masks):
    # First: one of two at 1.0, or both at 0.2 with 0.3 and 0.4 besides. Second and third: everything, at 0.
    np.testing.assert_allclose(best_iou(maps, masks), [1 / 2, 4 / 6, 2 / 6])


def test_best_iou_tries_every_threshold():
    generator = torch.Generator().manual_seed(0)
    maps = (torch.rand(4, 9, 7, generator=generator) * 12).round() / 12  # ties
    masks = torch.rand(4, 9, 7, generator=generator) < 0.3
    for b in range(4):
        tried = []
        for threshold in maps[b].unique().tolist():
            chosen = maps[b] >= threshold
            tried.append(int((chosen & masks[b]).sum()) / int((chosen | masks[b]).sum()))
        np.testing.assert_allclose(best_iou(maps, masks)[b], max(tried))


def test_grid_pointing_game_by_hand():
    maps = torch.zeros(1, 4, 4, 6)
    maps[0, 0, :2, :3] = 0.5  # all of it in its own cell
    maps[0, 1, 0, 5] = 0.75  # three quarters
    maps[0, 1, 3, 3] = 0.25
    maps[0, 2] = 1.0  # everywhere: chance
    found = grid_pointing_game(maps, 2)
    np.testing.assert_allclose(found, [[1, 0.75, 0.25, 0]])  # and nothing anywhere


def test_mosaics_are_row_by_row():
    images = torch.arange(2 * 4 * 1 * 2 * 3.0).reshape(2, 4, 1, 2, 3)
    found = mosaic(images, 2)
    assert found.shape == (2, 1, 4, 6)
    for m in range(2):
        for cell in range(4):
            row, column = 2 * (cell // 2), 3 * (cell % 2)
            assert torch.equal(found[m, :, row : row + 2, column : column + 3], images[m, cell])


def test_cells_of_mosaics_and_of_the_game_are_the_same():
    for cell in range(9):
        images = torch.zeros(1, 9, 3, 4, 5)
        images[:, cell] = 1.0
        maps = mosaic(images, 3)[:, 0]
        shares = grid_pointing_game(maps[:, None].expand(-1, 9, -1, -1), 3)
        assert shares[0].tolist() == [float(cell == k) for k in range(9)]


@pytest.mark.parametrize("run", ALL)
def test_an_empty_mask_is_an_error_and_no_hit(run, maps, masks):
    masks[1:] = False
    with pytest.raises(ValueError, match="masks: expected the object in each; that of image 1, 2 is empty"):
        run(maps, masks)


@pytest.mark.parametrize("run", ALL)
def test_bad_input_is_refused(run, maps, masks):
    with pytest.raises(TypeError, match=r"masks: expected a bool tensor, True on the object; got torch.uint8"):
        run(maps, masks.byte())
    with pytest.raises(ValueError, match=r"masks: expected shape \(3, 2, 3\), as the maps; got \(3, 3, 2\)"):
        run(maps, masks.reshape(3, 3, 2))
    with pytest.raises(ValueError, match="masks: expected device 'cpu', as the maps; got 'meta'"):
        run(maps, masks.to("meta"))
    with pytest.raises(ValueError, match=r"maps: expected values in \[0, 1\]; image 0 has others"):
        run(-1 - maps, masks)


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match=r"maps: expected a tensor \(M, 4, H, W\).* got \(1, 3, 4, 4\)"):
        grid_pointing_game(torch.zeros(1, 3, 4, 4), 2)
    with pytest.raises(ValueError, match=r"maps: expected sides that are multiples of n = 2; got \(4, 5\)"):
        grid_pointing_game(torch.zeros(1, 4, 4, 5), 2)
    with pytest.raises(ValueError, match="n: expected a number of cells a side"):
        grid_pointing_game(torch.zeros(1, 4, 4, 4), 0)
    with pytest.raises(ValueError, match=r"images: expected a tensor \(M, 4, C, H, W\) for grids of 2 x 2; got"):
        mosaic(torch.zeros(1, 3, 3, 4, 4), 2)


@pytest.mark.filterwarnings("ignore")
def test_quantus_agrees(peer):
    peers = peer("quantus")
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(8, 12, 10, generator=generator)
    masks = torch.rand(8, 12, 10, generator=generator) < 0.4
    given = {"a_batch": maps[:, None].numpy(), "s_batch": masks[:, None].numpy()}
    energy = peers.RelevanceMassAccuracy(normalise=False, disable_warnings=True).evaluate_batch(**given)
    np.testing.assert_allclose(energy_pointing_game(maps, masks), energy, atol=1e-6)
    hits = peers.PointingGame(normalise=False, disable_warnings=True).evaluate_batch(**given)
    np.testing.assert_array_equal(pointing_game(maps, masks), hits.astype(float))
