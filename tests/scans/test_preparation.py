"""What a model sees of a volume: its values from black to white, and where they lie."""

import dataclasses

import numpy as np
import pydicom
import pytest
import torch

from cfcam_gpu.scans.dicom.source import Source
from cfcam_gpu.scans.errors import UnreadableError
from cfcam_gpu.scans.grid import Grid
from cfcam_gpu.scans.preparation import VolumePreparation
from cfcam_gpu.scans.scan import Scan

from . import phantoms


def scan(values, *, window=None, grid=None, source=None):
    values = np.asarray(values, np.float32)
    return Scan(values, Grid(values.shape[-3:], np.eye(4)) if grid is None else grid, window, source)


def ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


#: Axes that a grid of no turning has.
AS_IT_IS = "RAS"


@pytest.mark.parametrize("axcodes", ["SAR", "RAS", "LPI"])
@pytest.mark.parametrize("size", [(48, 48, 48), (16, 24, 20)])
@pytest.mark.parametrize("name", phantoms.AFFINES)
def test_a_spot_lies_where_the_grid_says(name, size, axcodes):
    affine = phantoms.AFFINES[name]
    volume = scan(phantoms.volume().T, grid=phantoms.grid(affine))
    prepared = VolumePreparation(size, axcodes=axcodes, percentiles=(0, 100))
    pixels, grid = prepared.pixels(volume), prepared.grid(volume.grid)
    assert pixels.shape == (1, *size) == (1, *grid.shape)
    off = phantoms.centre_of(pixels[0].numpy(), grid) - phantoms.spot(affine)
    assert np.linalg.norm(off) < min(phantoms.SPACING) / 2


def test_values_go_from_black_to_white_by_the_first_window_there_is():
    values = ramp(4, 5, 6)
    plain = VolumePreparation((4, 5, 6), axcodes=AS_IT_IS)
    low, high = np.percentile(values, (1, 99))
    of_values = plain.pixels(scan(values))[0].numpy()
    np.testing.assert_allclose(of_values, np.clip((values - low) / (high - low), 0, 1), atol=1e-6)
    of_file = plain.pixels(scan(values, window=(60, 40)))[0].numpy()
    np.testing.assert_allclose(of_file, np.clip((values - 40) / 40, 0, 1), atol=1e-6)
    own = dataclasses.replace(plain, window=(100, 20))
    np.testing.assert_allclose(
        own.pixels(scan(values, window=(60, 40)))[0].numpy(), np.clip((values - 90) / 20, 0, 1), atol=1e-6
    )


def test_what_becomes_smaller_is_averaged():
    values = np.zeros((8, 8, 8))
    values[::2] = 1
    found = VolumePreparation((2, 2, 2), axcodes=AS_IT_IS, window=(0.5, 1)).pixels(scan(values))
    assert found.numpy() == pytest.approx(0.5, abs=0.1)


def test_what_is_no_number_is_black_and_hides_nothing():
    values = ramp(6, 6, 6)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    found = VolumePreparation((6, 6, 6), axcodes=AS_IT_IS).pixels(scan(values))[0]
    assert found.isfinite().all()
    assert found[0, 0, :3].tolist() == [0, 1, 0]
    assert found[-1, -1, -1] == 1


@pytest.mark.parametrize("value", [0, 7, -1e30])
def test_a_volume_of_one_value_is_of_one_shade(value):
    found = VolumePreparation((3, 3, 3)).pixels(scan(np.full((4, 4, 4), value)))
    assert found.unique().numel() == 1


def test_a_volume_of_nothing_is_refused():
    with pytest.raises(UnreadableError, match="without one finite value"):
        VolumePreparation((3, 3, 3)).pixels(scan(np.full((4, 4, 4), np.nan)))


def test_channels_are_seen_each_by_itself():
    values = np.stack([ramp(4, 4, 4), -5 * ramp(4, 4, 4)])
    found = VolumePreparation((4, 4, 4), channels=2, axcodes=AS_IT_IS).pixels(scan(values))
    torch.testing.assert_close(found[0], 1 - found[1])
    with pytest.raises(UnreadableError, match="expected 2 channels, as the model takes; it has 1"):
        VolumePreparation((4, 4, 4), channels=2).pixels(scan(ramp(4, 4, 4)))


def test_large_volumes_are_seen_as_small_ones(monkeypatch):
    values = np.random.default_rng(0).random((30, 30, 30), np.float32)
    whole = VolumePreparation((8, 8, 8)).pixels(scan(values))
    monkeypatch.setattr("cfcam_gpu.scans.preparation._SEEN", 2000)
    torch.testing.assert_close(VolumePreparation((8, 8, 8)).pixels(scan(values)), whole, atol=0.02, rtol=0)


def test_monochrome1_is_turned():
    header = pydicom.Dataset()
    header.PhotometricInterpretation = "MONOCHROME1"
    values = ramp(4, 4, 4)
    prepared = VolumePreparation((4, 4, 4), axcodes=AS_IT_IS)
    turned, plain = scan(values, source=Source((header,), None, None)), scan(values)
    torch.testing.assert_close(prepared.pixels(turned), 1 - prepared.pixels(plain))
    assert prepared.shades(turned)[0, 0, 0] == 255


def test_shades_are_on_the_volumes_own_grid():
    values = ramp(9, 5, 6)
    shades = VolumePreparation((4, 4, 4), window=(135, 270)).shades(scan(values))
    assert shades.dtype == np.uint8
    np.testing.assert_allclose(shades, values / 270 * 255, atol=0.51)


def test_blank_and_normalize_are_those_of_batches():
    prepared = VolumePreparation((2, 3, 4), channels=2, mean=(0.5, 0.25), std=(0.5, 0.125))
    blank = prepared.blank(3)
    assert blank.shape == (3, 2, 2, 3, 4)
    assert not blank.any()
    found = prepared.normalize(blank + 1)
    assert found[:, 0].unique().tolist() == [1]
    assert found[:, 1].unique().tolist() == [6]
    assert prepared.normalize(blank).shape == blank.shape


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"axcodes": "XYZ"}, "axcodes: expected three letters"),
        ({"percentiles": (99, 1)}, "percentiles: expected two, rising, from 0 to 100"),
        ({"mean": (1.0, 2.0)}, "mean: expected one number, or 1"),
        ({"std": (0.0,)}, "std: expected one number above 0"),
    ],
)
def test_what_is_no_preparation_is_refused(options, said):
    with pytest.raises(ValueError) as caught:
        VolumePreparation((4, 4, 4), **options)
    assert said in str(caught.value)
