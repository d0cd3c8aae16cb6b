"""The gate and what is shown, against the library's."""

import pytest
import torch
from scipy import ndimage

from cfcam_gpu.core.config import Config
from cfcam_gpu.core.gate import gated
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.deploy.method_graph import filters, is_empty, shown
from cfcam_gpu.deploy.method_graph.maps import gate

from .graphs import relu

SIZES = {1: ((9,), (50,)), 2: ((7, 5), (64, 48)), 3: ((4, 3, 5), (9, 12, 10))}


def maps(dims):
    """Of any scale; the last is one of zeros."""
    found = torch.rand(6, *SIZES[dims][0], generator=torch.Generator().manual_seed(dims))
    scales = torch.tensor([1.0, 1e-20, 1e-38, 1e20, 3e38, 0.0])
    return found / found.flatten(1).amax(1).reshape(-1, *[1] * dims) * scales.reshape(-1, *[1] * dims)


@pytest.mark.parametrize("saturation", [None, 0.25])
@pytest.mark.parametrize("part", [None, (0.0, 1.0), (0.1, 0.8), (-0.3, 1.2), (0.9, 0.2)], ids=str)
@pytest.mark.parametrize("dims", SIZES)
def test_maps_are_shown_as_the_library_shows_them(dims, part, saturation):
    raw, size = maps(dims), SIZES[dims][1]
    inside = part and tuple([part] + [(0.0, 1.0)] * (dims - 1))
    found = shown(raw, size, saturation=saturation, inside=inside)
    assert found.shape == (6, *size)
    torch.testing.assert_close(found, upsample(raw, size, saturation=saturation, inside=inside), rtol=0, atol=2e-6)
    assert found[:5].flatten(1).amax(1).tolist() == pytest.approx([1.0] * 5)
    assert not found[5].any()


@pytest.mark.parametrize("part", [None, (0.1, 0.8), (-0.3, 1.2)], ids=str)
def test_long_signals_need_no_matrix(part):
    raw = torch.rand(2, 700, generator=torch.Generator().manual_seed(0))
    inside = part and (part,)
    assert filters._MOST < 700 * 10_000
    found = shown(raw, (10_000,), inside=inside)
    # A rounding of the place, near 700, is one of 6e-5 between two values.
    torch.testing.assert_close(found, upsample(raw, (10_000,), inside=inside), rtol=0, atol=6e-5)


@pytest.mark.parametrize("boundary", ["zero", "reflect"])
@pytest.mark.parametrize("size", [(500,), (6, 400), (400, 6)], ids=str)
def test_long_axes_are_filtered_without_a_matrix(size, boundary):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = filters.smooth(maps.flatten(2), size, Config(sigma=2.5, boundary=boundary)).unflatten(2, size)
    mode = {"zero": "constant", "reflect": "reflect"}[boundary]
    axes = tuple(range(2, maps.ndim))
    wanted = ndimage.gaussian_filter(maps.double().numpy(), 2.5, mode=mode, truncate=4.0, axes=axes)
    torch.testing.assert_close(found, torch.from_numpy(wanted).float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(14, 14), (28, 28), (5, 5)], ids=str)
def test_a_map_may_be_as_large_or_smaller_than_what_is_shown(size):
    raw = relu(0, 3, 14, 14)[0]
    torch.testing.assert_close(shown(raw, size), upsample(raw, size), rtol=0, atol=2e-6)


def test_not_a_number_is_shown_as_no_map_of_that_image_alone():
    raw = maps(2)
    raw[1, 0, 0] = torch.nan
    found = shown(raw, (20, 20), saturation=0.25)
    assert found.isnan().flatten(1).all(1).tolist() == [False, True, False, False, False, False]
    assert found.isnan().flatten(1).any(1).tolist() == [False, True, False, False, False, False]
    assert is_empty(raw).tolist() == [False, False, False, False, False, True]


@pytest.mark.parametrize("dims", SIZES)
def test_the_gate_is_the_librarys(dims):
    raw = maps(dims)
    coarse = relu(1, 6, 40, *(3 for _ in range(dims)))
    coarse[1][0] = -1.0  # nothing speaks for it
    by = coarse[0], coarse[1][:, None]
    wanted = gated(raw[:, None], *by, Config.two_level(), by)[:, 0]
    found = gate(raw, *coarse, Config.two_level())
    assert is_empty(found).tolist() == [True, False, False, False, False, True]
    largest = raw.flatten(1).amax(1).clamp(min=1e-38).reshape(-1, *[1] * dims)
    torch.testing.assert_close(found / largest, wanted / largest, rtol=0, atol=1e-6)
