"""Colour and overlay, pixel by pixel."""

import matplotlib
import numpy as np
import pytest
import torch

from cfcam_gpu.core.maps import over_maximum, upsample
from cfcam_gpu.results import overlays

TURBO = matplotlib.colormaps["turbo"](np.linspace(0, 1, 256))[:, :3]


@pytest.fixture
def maps():
    return torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))


def by_hand(map_, image, alpha):
    """Of (H, W) in [0, 1] and (3, H, W) in [0, 1]."""
    drawn = np.zeros((*map_.shape, 3), np.uint8)
    for i, j in np.ndindex(*map_.shape):
        value = float(map_[i, j])
        color = TURBO[round(255 * value)]
        drawn[i, j] = np.round(255 * ((1 - alpha * value) * image[:, i, j].numpy() + alpha * value * color))
    return drawn


@pytest.mark.parametrize(
    ("low", "high", "stretched_by"),
    [(0.2, 0.9, (0, 1)), (-1.5, 0.5, (-1.5, 1)), (0.5, 4.0, (0, 4)), (-2.0, 3.0, (-2, 3))],
    ids=["as it is", "from below", "from above", "both"],
)
def test_an_overlay_is_the_image_under_its_colours(maps, low, high, stretched_by):
    images = low + (high - low) * torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(1))
    images[:, 0, 0, 0], images[:, 1, 1, 1] = low, high
    first, last = stretched_by
    for alpha in (0.6, 1.0):
        found = overlays.overlay(maps, images, alpha=alpha)
        for b in range(2):
            expected = by_hand(maps[b], (images[b] - first) / (last - first), alpha)
            np.testing.assert_allclose(found[b].int(), expected.astype(int), rtol=0, atol=1)  # one of float32's halves
            assert (found[b].numpy() == expected).mean() > 0.9


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_than_three_are_their_mean_in_gray(maps, channels):
    images = torch.rand(2, channels, 3, 4, generator=torch.Generator().manual_seed(2))
    gray = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.equal(overlays.overlay(maps, images), overlays.overlay(maps, gray))


def test_maps_of_several_targets_are_each_drawn_over_their_image(maps):
    images = torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(3))
    found = overlays.overlay(torch.stack([maps, 1 - maps], dim=1), images)
    assert torch.equal(found[:, 0], overlays.overlay(maps, images))
    assert torch.equal(found[:, 1], overlays.overlay(1 - maps, images))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)], ids=["image", "volume"])
def test_a_pixel_without_a_finite_value_is_black_and_changes_no_other(value, channels, size):
    generator = torch.Generator().manual_seed(3)
    maps, images = torch.rand(2, *size, generator=generator), 4 * torch.randn(2, channels, *size, generator=generator)
    at = (0, *(0 for _ in size))
    maps[at] = 0  # the image alone shows
    images[(slice(None), slice(None), *at[1:])] = 0.5  # on no end of the range
    expected = overlays.overlay(maps, images)
    assert expected[at].any()
    images[(0, channels - 1, *at[1:])] = value
    found = overlays.overlay(maps, images)
    expected[at] = 0
    assert torch.equal(found, expected)
    assert overlays.overlay(maps, torch.full_like(images, value)).any()  # the map still shows


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_signals_line_has_a_gap_where_it_has_no_finite_value(value):
    maps, signals = torch.rand(1, 60), torch.linspace(-3, 3, 60).repeat(1, 2, 1)
    expected = overlays.overlay(maps, signals)
    signals[0, 0, 30] = value
    found = overlays.overlay(maps, signals)
    changed = (found != expected).any(dim=-1)[0]
    columns = changed.any(dim=0).nonzero()
    assert changed[: len(changed) // 2].any()  # of the first line alone
    assert not changed[len(changed) // 2 :].any()
    assert columns.max() - columns.min() < 1200 * 4 / 60
    signals[0, 0] = value
    overlays.overlay(maps, signals)  # a channel without a value


def test_images_elsewhere_are_refused(maps):
    with pytest.raises(ValueError, match="images: expected device 'cpu', as the maps; got 'meta'"):
        overlays.overlay(maps, torch.rand(2, 3, 3, 4, device="meta"))


def test_maps_next_to_the_end_of_float32_are_scaled_before_they_are_summed():
    raw = torch.full((1, 2, 2), 3e38)
    assert torch.equal(upsample(raw, (5, 5)), torch.ones(1, 5, 5))


def test_each_map_is_over_its_own_maximum_and_zeros_stay_zeros():
    raw = torch.rand(4, 1, 3, 2, generator=torch.Generator().manual_seed(4))
    scales = torch.tensor([1e38, 1.0, 1e-44, 0.0])[:, None, None, None]  # the third is subnormal
    raw = raw * scales
    for found in (over_maximum(raw), upsample(raw, (3, 2))):
        for b in range(3):
            assert torch.equal(found[b], raw[b] / raw[b].max())
        assert torch.equal(found[3], torch.zeros(1, 3, 2))
