"""How images become inputs: other sizes and channels than colours in a square, and values of other units."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu.image_files.formats import UnreadableError
from cfcam_gpu.image_files.preparation import Preparation
from cfcam_gpu.scans.grid import Grid

BILINEAR = Image.Resampling.BILINEAR
HALF = (0.5,)


def made(size=8, resize=8, *, channels=3, mean=HALF, std=HALF, **others):
    each = (values * channels if len(values) == 1 else values for values in (mean, std))
    return Preparation(size, resize, BILINEAR, *each, **others)


def ramp(height, width, dtype=np.float32, top=1.0):
    """Values that grow along both axes, with a channel for each."""
    rows, columns = np.mgrid[:height, :width]
    return (np.stack([rows / height, columns / width], axis=-1) * top).astype(dtype)


def test_a_job_knows_a_square_of_colours_by_the_words_of_before():
    plain = Preparation(224, 256, BILINEAR, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (40, 400))
    assert repr(plain) == (
        "Preparation(size=224, resize=256, interpolation=<Resampling.BILINEAR: 2>, mean=(0.485, 0.456, 0.406), "
        "std=(0.229, 0.224, 0.225))"
    )
    others = [made(), made(size=(8, 9)), made(squash=True), made(rounding="torchvision"), made(channels=1)]
    assert len({repr(one) for one in others}) == len(others)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size"),
        ({"resize": (8, 0)}, "resize"),
        ({"std": (0.0,)}, "mean and std"),
        ({"mean": (0.5, 0.5)}, "mean and std"),
        ({"mean": (math.nan,)}, "mean and std"),
        ({"rounding": "up"}, "rounding"),
    ],
)
def test_what_is_none_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^{message}: expected"):
        made(**fields)


@pytest.mark.parametrize("rounding", ["nearest", "torchvision", "transformers"])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (7, 500)])
def test_another_shape_than_a_square_is_covered(rounding, shape):
    image = Image.fromarray(np.full((*shape, 3), 200, np.uint8))
    pixels = made((16, 32), (18, 36), rounding=rounding).pixels(image)
    assert (pixels.shape, pixels.dtype) == ((3, 16, 32), torch.uint8)
    assert bool((pixels == 200).all()), "no black around"


@pytest.mark.parametrize(
    ("size", "resize", "squash", "rounding"),
    [
        (32, 36, False, "nearest"),
        ((24, 40), (26, 44), False, "nearest"),
        ((24, 40), (26, 43), False, "torchvision"),
        (33, 40, False, "transformers"),
        ((24, 40), (24, 40), True, "nearest"),
        (40, 30, False, "torchvision"),
    ],
)
@pytest.mark.parametrize("shape", [(90, 130), (131, 90)])
def test_the_grid_is_where_the_pixels_lie(size, resize, squash, rounding, shape):
    # What is seen of two ramps says where each pixel comes from.
    wants = made(size, resize, channels=2, squash=squash, rounding=rounding)
    places = wants.pixels(ramp(*shape)) * torch.tensor(shape)[:, None, None]
    grid = wants.grid(Grid((1, *shape), np.eye(4)))
    assert grid.shape == (1, wants.height, wants.width)
    inside = [slice(side // 4, -side // 4) for side in grid.shape[1:]]
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]]
    found = grid.affine @ np.stack([np.zeros(rows.shape), rows, columns, np.ones(rows.shape)], axis=-1)[..., None]
    for axis in (0, 1):
        apart = places[axis].numpy() - found[..., axis + 1, 0]
        assert float(np.abs(apart[inside[0], inside[1]]).max()) < 0.05


def test_grey_is_luminance():
    image = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8))
    assert made(channels=1).pixels(image).unique().tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_colours_are_no_bands(channels):
    with pytest.raises(UnreadableError, match=f"the model takes {channels} bands: expected a TIFF"):
        made(channels=channels).pixels(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("values", "mean", "std", "normalised"),
    [
        (np.uint8(51), 0.1, 0.5, (0.2 - 0.1) / 0.5),
        (np.uint8(51), 1.0, 1.0, 0.2 - 1.0),
        (np.float32(0.2), 0.1, 0.5, (0.2 - 0.1) / 0.5),
        (np.float64(-1.5), 0.0, 0.5, -3.0),
        (np.uint8(51), 50, 2, 0.5),
        (np.uint16(3000), 0, 10000, 0.3),
        (np.int16(-200), 100, 50, -6.0),
        (np.float32(3000), 2000, 500, 2.0),
    ],
)
def test_values_are_those_of_the_units_of_mean_and_std(values, mean, std, normalised):
    wants = made(channels=2, mean=(mean,), std=(std,))
    pixels = wants.pixels(np.full((10, 12, 2), values))
    assert (pixels.dtype, wants.blank(1).dtype) == (torch.float32, torch.float32), "a batch has one type"
    found = wants.normalize(pixels[None])
    torch.testing.assert_close(found, torch.full((1, 2, 8, 8), normalised), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "mean", "message"),
    [
        (np.uint16(3000), 0.5, "values are uint16, up to 3000, and mean and std of values in .0, 1."),
        (np.int16(1), 0.5, "values are int16"),
        (np.float32(255), 0.5, "values are float32, up to 255"),
        (np.float32(np.nan), 100, "NaN or infinite"),
        (np.complex64(1), 0.5, "complex64: expected whole or floating"),
        (np.bool_(True), 0.5, "bool: expected whole or floating"),
        (np.uint8(3), 1000, "of 8 bits, 0 to 255, and mean 1000"),
        (np.uint8(3), -100, "of 8 bits, 0 to 255, and mean -100"),
    ],
)
def test_values_that_mean_and_std_can_not_be_meant_for_are_refused(values, mean, message):
    with pytest.raises(UnreadableError, match=message):
        made(channels=2, mean=(mean,)).pixels(np.full((10, 12, 2), values))


def test_photographs_in_units_of_their_own_are_taken_from_0_to_255():
    caffe = made(mean=(123.0, 116.0, 103.0), std=(1.0,))
    image = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8))
    assert caffe.normalize(caffe.pixels(image)[None])[0, :, 0, 0].tolist() == [77.0, -16.0, -53.0]
    assert caffe.pixels(image).dtype == caffe.blank(1).dtype
    with pytest.raises(UnreadableError, match="of 8 bits, 0 to 255, and mean -600"):
        made(channels=1, mean=(-600.0,), std=(400.0,)).pixels(image)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (3, np.float32)])
def test_arrays_of_photographs_are_of_8_bits(channels, dtype):
    with pytest.raises(UnreadableError, match="those of photographs uint8"):
        made(channels=channels).pixels(np.zeros((8, 8, channels), dtype))


@pytest.mark.parametrize("resize", [18, 12])
def test_of_a_panorama_the_middle_is_the_same(resize):
    # Its middle alone is resized; of a shorter one all of it. What both see is smooth.
    wants = made(16, resize, rounding="torchvision")
    values = np.zeros((40, 40 * 30, 3), np.uint8)
    values[...] = (np.sin(np.arange(1200) / 40) * 100 + 128)[None, :, None]
    short = values[:, 400:800]
    found = [wants.pixels(Image.fromarray(one)).int() for one in (values, short)]
    assert int((found[0] - found[1]).abs().max()) <= 1
    assert bool((found[0][:, 0] == 0).all()) == (resize < 16), "black around"
