"""Masks as tools write them: the object is what they mean, or the mask is refused by its file's name."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from cfcam_gpu.evaluation import masks

OBJECT = np.zeros((16, 24), bool)
OBJECT[4:12, 6:20] = True
BITS = OBJECT.astype(np.uint8)
#: Black, red, green and grey, then void as in PASCAL VOC.
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 128, *[9] * (251 * 3), 224, 224, 192]


def palette(indices, colours):
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


def drawn(colour, *, ground=(0, 0, 0, 0)):
    """RGBA: the object in one colour on a ground."""
    return Image.fromarray(np.where(OBJECT[..., None], np.uint8(colour), np.uint8(ground)))


def photograph_cut_out():
    pixels = np.random.default_rng(0).integers(0, 256, (*OBJECT.shape, 4), np.uint8)
    pixels[..., 3] = BITS * 255
    return Image.fromarray(pixels)


MEANT = {
    "white on black": Image.fromarray(BITS * 255),
    "ones": Image.fromarray(BITS),
    "another grey": Image.fromarray(BITS * 128),
    "a bit": Image.fromarray(OBJECT),
    "ones of 16 bits": Image.fromarray(BITS.astype(np.uint16)),
    "white of 16 bits": Image.fromarray(BITS.astype(np.uint16) * 65535),
    "white in RGB": Image.fromarray(BITS * 255).convert("RGB"),
    "ones in RGB": Image.fromarray(BITS).convert("RGB"),
    "red on black": drawn((255, 0, 0, 255), ground=(0, 0, 0, 255)).convert("RGB"),
    "dark red on black": drawn((40, 0, 0, 255), ground=(0, 0, 0, 255)).convert("RGB"),
    "white on nothing": drawn((255, 255, 255, 255)),
    "white on what is white and transparent": drawn((255, 255, 255, 255), ground=(255, 255, 255, 0)),
    "red on nothing": drawn((255, 0, 0, 255)),
    "black on nothing": drawn((0, 0, 0, 255), ground=(255, 255, 255, 0)),
    "half transparent": drawn((255, 0, 0, 128)),
    "less than half transparent": drawn((255, 0, 0, 100)),
    "nothing transparent": drawn((255, 255, 255, 255), ground=(0, 0, 0, 255)),
    "grey and alpha": drawn((255, 255, 255, 255)).convert("LA"),
    "a photograph cut out": photograph_cut_out(),
    "a class of VOC": palette(BITS * 2, VOC),
    "several classes of VOC": palette(np.where(OBJECT, 1 + np.indices(OBJECT.shape)[1] % 3, 0), VOC),
    "VOC with void": palette(np.where(OBJECT, 1, 255 * (np.indices(OBJECT.shape)[0] > 13)), VOC),
    "a palette of black and white": palette(BITS, [0, 0, 0, 255, 255, 255]),
    "a palette of white and black": palette(1 - BITS, [255, 255, 255, 0, 0, 0]),
    "a palette of red and black": palette(1 - BITS, [255, 0, 0, 0, 0, 0]),
    "a palette of greys": palette(BITS * 255, [i for i in range(256) for _ in "RGB"]),
    "indices of a palette without black first": palette(1 + BITS, [9, 9, 9, 0, 0, 0, 0, 255, 0]),
}


@pytest.mark.parametrize("kind", MEANT)
def test_the_object_is_what_is_meant(tmp_path, kind):
    MEANT[kind].save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode in (MEANT[kind].mode, "I")
    np.testing.assert_array_equal(masks.read(tmp_path / "mask.png"), OBJECT)


def test_a_palette_with_a_transparent_colour(tmp_path):
    palette(BITS, [255, 255, 255, 255, 255, 255]).save(tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(masks.read(tmp_path / "mask.png"), OBJECT)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tif", "jpg", "webp", "jp2"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_other_formats(tmp_path, suffix, mode):
    Image.fromarray(BITS * 255).convert(mode).save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(masks.read(tmp_path / f"mask.{suffix}"), OBJECT)


def test_ones_where_nothing_was_lost(tmp_path):
    for dtype in (np.uint8, np.uint16):
        Image.fromarray(BITS.astype(dtype)).save(tmp_path / "mask.jp2")
        np.testing.assert_array_equal(masks.read(tmp_path / "mask.jp2"), OBJECT)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_tiff_whose_white_is_zero(tmp_path, dtype):
    white = np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "mask.tif", np.where(OBJECT, 0, white).astype(dtype), photometric="miniswhite")
    np.testing.assert_array_equal(masks.read(tmp_path / "mask.tif"), OBJECT)


def test_bools_as_tifffile_writes_them(tmp_path):
    for how in ({}, {"compression": "zlib"}, {"photometric": "minisblack"}):
        tifffile.imwrite(tmp_path / "mask.tif", OBJECT, **how)
        np.testing.assert_array_equal(masks.read(tmp_path / "mask.tif"), OBJECT)


def test_a_bit_whose_white_is_zero_is_refused_where_nobody_knows_which_is_meant(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", OBJECT, software=False)
    with pytest.raises(ValueError, match=r"mask\.tif: a TIFF of 1 bit whose ones are black .*save it as PNG"):
        masks.read(tmp_path / "mask.tif")
    # A fax's ones are ink.
    Image.fromarray(OBJECT).save(tmp_path / "fax.tif", compression="group4", tiffinfo={262: 0})
    with Image.open(tmp_path / "fax.tif") as image:
        assert image.tag_v2[262] == 0
        shown = np.asarray(image)
    np.testing.assert_array_equal(masks.read(tmp_path / "fax.tif"), shown)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "jp2"])
@pytest.mark.parametrize("level", [40, 100, 128, 200, 255])
def test_a_lossy_mask_is_judged_by_its_own_level(tmp_path, suffix, level):
    bits = np.kron(BITS, np.ones((3, 3), np.uint8))
    how = {"quality_layers": [8]} if suffix == "jp2" else {"quality": 75}
    for colour in ((level,) * 3, (level, level, 0)):
        Image.fromarray(bits[..., None] * np.uint8(colour)).save(tmp_path / f"mask.{suffix}", **how)
        np.testing.assert_array_equal(masks.read(tmp_path / f"mask.{suffix}"), bits.astype(bool))


@pytest.mark.parametrize("other", [50, 128, 200])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
def test_several_levels_of_a_lossy_format_or_of_alpha_are_refused(tmp_path, suffix, other):
    levels = np.kron(BITS * np.uint8(255), np.ones((3, 3), np.uint8))
    levels[:, :12] = other
    image = Image.fromarray(np.dstack([levels] * 4) if suffix == "png" else levels)
    image.save(tmp_path / f"mask.{suffix}")
    what = "its alpha are" if suffix == "png" else "its values, in a lossy format, are"
    with pytest.raises(ValueError, match=rf"{what} around 0, .* and .*; expected 0 for what is not"):
        masks.read(tmp_path / f"mask.{suffix}")


def test_lossy_photographs_and_labels_that_compression_hides_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    with pytest.raises(ValueError, match="in a lossy format, are everywhere from 0 to"):
        masks.read(tmp_path / "noise.jpg")
    Image.fromarray(np.indices((64, 64))[1].astype(np.uint8) // 8).save(tmp_path / "dark.jpg")
    Image.fromarray(BITS).save(tmp_path / "ones.jpg", quality=95)
    with pytest.raises(ValueError, match=r"above 1, which is too dark"):
        masks.read(tmp_path / "ones.jpg")
    with pytest.raises(ValueError, match=r"above 7, which is too dark .*save it as PNG"):
        masks.read(tmp_path / "dark.jpg")


def test_a_mask_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(BITS * 255)
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(masks.read(tmp_path / "mask.png"), OBJECT)


REFUSED = {
    "greys between": (Image.fromarray(BITS * 100 + np.uint8(np.indices(OBJECT.shape)[1])), "its values are 0, 1, 2"),
    "indices with void": (Image.fromarray(np.where(OBJECT, np.uint8(15), np.uint8(0)) | np.eye(16, 24, dtype=np.uint8)
                                          * np.uint8(255)), "its values are 0, 15, 255"),
    "no zero": (Image.fromarray(BITS + np.uint8(1)), "its values are 1, 2"),
    "colours": (photograph_cut_out().convert("RGB"), "other colours than black"),
    "red on white": (drawn((255, 0, 0, 255), ground=(255, 255, 255, 255)).convert("RGB"), "other colours than black"),
    "black and white on nothing": (
        Image.fromarray(np.dstack([BITS * 255] * 3 + [np.where(np.indices(OBJECT.shape)[1] > 1, 255, 0)]).astype("u1")),
        "black and another colour are opaque",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_nobody_can_know_is_refused_by_its_name_with_what_is_expected(tmp_path, kind):
    image, reason = REFUSED[kind]
    image.save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=f"^mask: {tmp_path}/mask.png: .*{reason}.*expected 0 for what is not"):
        masks.read(tmp_path / "mask.png")


def test_what_can_not_be_read_as_it_is_meant_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", OBJECT.astype(np.float32), photometric="minisblack")
    with pytest.raises(ValueError, match=r"mask\.tif: its pixels are 32-bit floating-point"):
        masks.read(tmp_path / "mask.tif")
    tifffile.imwrite(tmp_path / "mask.tif", np.dstack([BITS.astype(np.uint16)] * 3), photometric="rgb")
    with pytest.raises(ValueError, match=r"mask\.tif: no value of its 16-bit colours .* labels .* save it with 8 bits"):
        masks.read(tmp_path / "mask.tif")
    (tmp_path / "mask.png").write_bytes(io.BytesIO(b"\x93NUMPY").getvalue())
    with pytest.raises(ValueError, match=r"mask\.png: a NumPy array, which is not read"):
        masks.read(tmp_path / "mask.png")


def test_ones_of_16_bit_colours_are_never_taken_for_an_empty_mask(tmp_path):
    pixels = np.dstack([BITS.astype(np.uint16)] * 3)
    for bits in (65535, 1):
        tag = [(281, 3, 1, bits, True)]
        tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric="rgb", extratags=tag)
        with pytest.raises(
            ValueError, match="labels such as 0 and 1 are the same; save it with 8 bits, or with 16 and"
        ):
            masks.read(tmp_path / "mask.tif")
    tifffile.imwrite(tmp_path / "mask.tif", pixels * np.uint16(65535), photometric="rgb")
    np.testing.assert_array_equal(masks.read(tmp_path / "mask.tif"), OBJECT)
