"""Photographs are read as a viewer shows them, or refused with a reason, and prepared as a model wants them."""

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu.image_files import photos
from cfcam_gpu.image_files.photos import Preparation, UnreadableError

from ..networks import photographs

LITE0 = Preparation(224, 256, Image.Resampling.BICUBIC, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def corner():
    """4 x 2, green but for a red pixel at the upper left."""
    image = Image.new("RGB", (4, 2), GREEN)
    image.putpixel((0, 0), RED)
    return image


def test_what_the_model_sees_of_the_samples():
    names, expected = photographs()
    for path in photos.samples():
        pixels = LITE0.pixels(photos.read(path))
        assert pixels.dtype == torch.uint8
        torch.testing.assert_close(pixels / 255, expected[names.index(path.stem)], rtol=0, atol=0)


def test_normalisation():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 4, 5)
    wanted = Preparation(4, 4, Image.Resampling.BILINEAR, (0.0, 0.5, 0.1), (1.0, 0.25, 0.1))
    found = wanted.normalize(pixels)
    assert found.shape == (2, 3, 4, 5)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.0, 2.0, 1.0]))


@pytest.mark.parametrize("size", [(1, 1), (30000, 1), (3, 5000), (225, 223)])
def test_odd_sizes_become_the_models_input(size):
    assert LITE0.pixels(Image.new("RGB", size, RED)).shape == (3, 224, 224)


def test_a_panorama_is_cut_out_of_its_middle():
    image = Image.new("RGB", (4000, 100), RED)
    image.paste(GREEN, (1900, 0, 2100, 100))
    assert LITE0.pixels(image).movedim(0, -1).reshape(-1, 3).unique(dim=0).tolist() == [list(GREEN)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, corner, orientation):
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # undo, as Image.Transpose
    stored = corner.transpose(Image.Transpose(turned[orientation])) if orientation > 1 else corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(photos.read(tmp_path / "a.png"), corner)


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "gif"), ("RGBA", "webp")])
def test_what_is_transparent_is_white(tmp_path, mode, suffix):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.convert(mode).save(tmp_path / f"a.{suffix}", lossless=True)
    assert np.asarray(photos.read(tmp_path / f"a.{suffix}")).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    assert np.asarray(photos.read(tmp_path / "a.png")).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("dtype", "suffix"), [("uint16", "png"), ("uint16", "tif"), (">u2", "tif"), ("int32", "tif")], ids=str
)
def test_16_bit_greys_are_scaled(tmp_path, dtype, suffix):
    values = np.array([[0, 257 * 100, 65535]])
    path = tmp_path / f"a.{suffix}"
    if dtype == ">u2":
        Image.frombytes("I;16B", (3, 1), values.astype(dtype).tobytes()).save(path)
    else:
        Image.fromarray(values.astype(dtype)).save(path)
    assert np.asarray(photos.read(path))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("1", "png"), ("CMYK", "jpg"), ("YCbCr", "jpg")])
def test_other_modes_become_rgb(tmp_path, mode, suffix):
    Image.new("RGB", (8, 8), "white").convert(mode).save(tmp_path / f"a.{suffix}")
    found = photos.read(tmp_path / f"a.{suffix}")
    assert found.mode == "RGB"
    assert np.asarray(found).min() >= 250


def test_of_an_animation_the_first_frame(tmp_path):
    Image.new("RGB", (4, 4), RED).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (4, 4), GREEN)]
    )
    assert photos.read(tmp_path / "a.gif").getpixel((0, 0)) == RED


@pytest.mark.parametrize(("dtype", "beyond"), [("float32", "floating"), ("int32", "16 bits")])
def test_pixels_of_no_fixed_range_are_refused(tmp_path, dtype, beyond):
    Image.fromarray(np.full((2, 2), 70000, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableError, match=beyond):
        photos.read(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_damaged_file_is_refused_with_a_reason(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UnreadableError) as refusal:
        photos.read(path)
    assert str(refusal.value)


def test_what_is_missing_or_no_image_is_refused(tmp_path):
    with pytest.raises(UnreadableError, match="No such file"):
        photos.read(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UnreadableError, match="not an image"):
        photos.read(tmp_path / "a.png")


def test_postscript_never_reaches_ghostscript(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: pytest.fail("Ghostscript ran"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match="PostScript, which is not read"):
        photos.read(tmp_path / "a.png")


@pytest.mark.parametrize("limit", [99, 49, 10], ids=["Pillow warns", "Pillow refuses", "far beyond"])
def test_the_pixel_limit_holds(tmp_path, monkeypatch, limit):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    photos.read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableError, match=f"limit of {limit} pixels"):
        photos.read(tmp_path / "a.png")


def test_damaged_exif_does_not_matter(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    assert photos.read(tmp_path / "a.jpg").size == (4, 4)


def test_samples_that_are_not_installed_name_the_remedy(monkeypatch):
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'cfcam-gpu\[demo\]'"):
        photos.samples()
