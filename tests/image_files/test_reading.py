"""Depths, formats, pages and warnings: what a file is turned into, and what is said where it can't be."""

import io
import logging
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.image_files import bit_depth, formats, jpeg_xl, photos
from cfcam_gpu.image_files.photos import TooLargeError, UnreadableError
from cfcam_gpu.sources.decoding import decode

from ..needs import module
from .test_photos import LITE0

COLOURS = ["red", "lime", "blue"]


def blocks(size=(56, 40)):
    """Blocks of 8 x 8 in colours of their own."""
    colours = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return Image.fromarray(np.kron(colours, np.ones((8, 8, 1), np.uint8)))


def encoded(image, form, **how):
    file = io.BytesIO()
    image.save(file, form, **how)
    return file


def pillow_reads(file):
    """Whether the installed Pillow does: releases before 11 take some files for ones that are cut off."""
    try:
        Image.open(file).load()
    except OSError:
        return False
    return True


def png16(values, colour=0, chunk=None):
    """A PNG of 16 bits from values (H, W) or (H, W, C)."""
    values = np.asarray(values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [b"IHDR" + head, *([chunk] if chunk else []), b"IDAT" + zlib.compress(rows), b"IEND"]
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def grey(file):
    return np.asarray(photos.read(file))[..., 0].astype(int)


def eighth(values, white):
    return np.rint(np.asarray(values, float) * 255 / white).astype(int)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_sbit_of_a_png_tells_how_many_bits_are_used(bits):
    white = (1 << bits) - 1
    values = np.linspace(0, white, 64).astype(int).reshape(8, 8)
    chunk = b"sBIT" + bytes([bits])
    np.testing.assert_array_equal(grey(png16(values, chunk=chunk)), eighth(values, white))
    # As the specification has it: scaled to 16 bits, whether bright or dark.
    for scaled in (values << (16 - bits), values // 256 << (16 - bits)):
        np.testing.assert_array_equal(grey(png16(scaled, chunk=chunk)), eighth(scaled, 65535))


def test_12_bits_in_a_png_of_which_nothing_tells():
    values = np.linspace(0, 4095, 64).astype(int).reshape(8, 8)
    with pytest.raises(UnreadableError, match=r"above 4,095: .*sBIT of a PNG"):
        photos.read(png16(values))
    np.testing.assert_array_equal(grey(png16(values, chunk=b"sBIT\x10")), eighth(values, 65535))
    assert grey(png16(np.zeros((4, 4)))).max() == 0
    for colour, channels in ((2, 3), (6, 4), (4, 2)):
        pixels = np.repeat(values[..., None], channels, axis=-1)
        pixels[..., -1] = 65535 if channels != 3 else pixels[..., -1]
        with pytest.raises(UnreadableError, match=r"16-bit colours is above.*dark in truth, .*sBIT 16 of a PNG"):
            photos.read(png16(pixels, colour))
        with pytest.raises(UnreadableError, match=r"16-bit colours is above 4,095: .*; scale it to 8 or 16 bits$"):
            photos.read(png16(pixels, colour, b"sBIT" + bytes([12] * channels)))
        photos.read(png16(pixels, colour, b"sBIT" + bytes([16] * channels)))
        assert grey(png16((pixels + 4096).clip(max=65535), colour)).min() == 16


def test_a_grey_of_16_bits_that_is_transparent_is_white():
    found = grey(png16([[0, 30000, 65535, 30000]], chunk=b"tRNS" + struct.pack(">H", 30000)))
    assert found[0].tolist() == [0, 255, 255, 255]


def test_what_the_header_of_a_pgm_calls_white_is_white():
    for white in (15, 255, 1000, 4095, 65535):
        values = np.linspace(0, min(white, 4000), 16).astype(int)
        data = values.astype(">u2" if white > 255 else "u1").tobytes()
        file = io.BytesIO(f"P5 4 4 {white}\n".encode() + data)
        assert np.abs(grey(file).ravel() - eighth(values, white)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "CMYK", "YCbCr", "P"])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM"])
def test_modes_become_the_colours_that_they_mean(mode, form):
    image = blocks().quantize(64) if mode == "P" else blocks().convert(mode)
    try:
        file = encoded(image, form, **({"lossless": True} if form == "WEBP" else {}))
    except (OSError, ValueError, SystemError):
        return  # Pillow does not write it
    if form == "GIF" and mode not in ("L", "1", "P"):
        return  # of fewer colours
    if (form, mode) == ("TIFF", "YCbCr") and not pillow_reads(file):
        return
    np.testing.assert_array_equal(photos.read(file), image.convert("RGB"))


def test_avif_and_jpeg_2000_are_read():
    image = blocks()
    np.testing.assert_array_equal(photos.read(encoded(image, "JPEG2000")), image)
    np.testing.assert_array_equal(photos.read(encoded(image, "JPEG2000", no_jp2=True)), image)
    if not formats._has("avif"):
        pytest.skip("Pillow has no AVIF")
    found = photos.read(encoded(image, "AVIF", quality=100, subsampling="4:4:4"))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(image)).max() < 8


@pytest.mark.parametrize(("bits", "signed"), [(12, False), (16, False)])
def test_greys_of_a_jpeg_2000(bits, signed):
    values = np.linspace(0, (1 << bits) - 1, 64).astype(np.uint16).reshape(8, 8)
    if bits == 12:
        # Pillow writes 16 bits: what its decoder makes of 12 is that, shifted.
        values = values << 4
    np.testing.assert_array_equal(grey(encoded(Image.fromarray(values), "JPEG2000")), eighth(values, 65535))


@pytest.mark.parametrize("most", [255, 4095])
def test_12_bits_in_a_jpeg_2000_of_16_are_refused(most):
    cv2 = module("cv2", "PEERS")
    values = np.linspace(0, most, 4096).astype(np.uint16).reshape(64, 64)
    for pixels in (values, np.dstack([values] * 3)):
        kind = "greys" if pixels.ndim == 2 else "colours"
        with pytest.raises(UnreadableError, match=f"no value of its 16-bit {kind} is above 5,119.*scale it to 8 or 16"):
            photos.read(io.BytesIO(cv2.imencode(".jp2", pixels)[1].tobytes()))
        bright = cv2.imencode(".jp2", pixels + np.uint16(60000))[1].tobytes()
        assert np.abs(grey(io.BytesIO(bright)) - eighth(values + np.uint16(60000), 65535)).max() <= 1


def test_the_precision_of_a_jpeg_2000_is_in_its_codestream():
    deep = Image.fromarray(np.zeros((8, 8), np.uint16))
    for image, bits in ((deep, 16), (blocks(), 8)):
        bare = encoded(image, "JPEG2000", no_jp2=True)
        boxed = encoded(image, "JPEG2000").getvalue()
        at = boxed.index(b"jp2c") - 4
        long = struct.pack(">I4sQ", 1, b"jp2c", 16 + len(boxed) - at - 8) + boxed[at + 8 :]
        apart = boxed[:at] + struct.pack(">I4sQ", 1, b"xml ", 5016) + bytes(5000) + long
        for file in (bare, io.BytesIO(boxed), io.BytesIO(apart)):
            assert bit_depth.of_jpeg_2000(file) == bits
    assert bit_depth.of_jpeg_2000(io.BytesIO(boxed[:at])) == 0


@pytest.mark.parametrize("how", [{}, {"use_container": True}])
def test_jpeg_xl_is_read(how):
    module("pillow_jxl", "PEERS")
    image = blocks()
    file = encoded(image, "JXL", lossless=True, **how)
    np.testing.assert_array_equal(photos.read(file), image)
    dark = Image.fromarray(np.linspace(0, 4000, 64).astype(np.uint16).reshape(8, 8))
    with pytest.raises(UnreadableError, match="no value of its 16-bit greys is above"):
        photos.read(encoded(dark, "JXL", lossless=True, **how))
    deep = Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8))
    np.testing.assert_array_equal(grey(encoded(deep, "JXL", lossless=True, **how)), eighth(deep, 65535))


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (256, 256), (300, 200), (1000, 10), (5000, 3), (640, 480), (928, 522)])
def test_the_head_of_a_jpeg_xl_tells_its_size_before_it_is_decoded(size, container, monkeypatch):
    plugin = module("pillow_jxl.JpegXLImagePlugin", "PEERS")
    file = encoded(Image.new("RGB", size), "JXL", use_container=container)
    monkeypatch.setattr(plugin, "Decoder", lambda **options: pytest.fail("decoded"))
    assert photos.dimensions(file) == size
    assert not jpeg_xl.read_head(file).animated
    with pytest.raises(TooLargeError, match=f"{size[0]} x {size[1]}, more than the limit of 0 pixels"):
        photos.read(file, max_pixels=0)


def test_heic_is_read_and_turned_once():
    module("pillow_heif", "PEERS").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(blocks(), "HEIF", quality=-1, exif=exif.tobytes())
    found = np.asarray(photos.read(file)).astype(int)
    wanted = np.asarray(blocks().transpose(Image.Transpose.ROTATE_270))
    assert np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize(
    ("plugin", "head", "extra"),
    [
        ("pillow_heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heif"),
        ("pillow_heif", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heif"),
        ("pillow_jxl", b"\xff\x0a", "jxl"),
        ("pillow_jxl", b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_its_extra(plugin, head, extra, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UnreadableError, match=rf"{plugin} is not installed; pip install 'cfcam-gpu\[{extra}\]'"):
        photos.read(io.BytesIO(head + bytes(99)))


def test_a_feature_that_pillow_lacks_is_named(monkeypatch):
    monkeypatch.setattr(formats.features, "check", lambda name: False)
    with pytest.raises(UnreadableError, match=r"AVIF, which .* Pillow can't decode; pip install 'cfcam-gpu\[avif\]'"):
        photos.read(io.BytesIO(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(99)))
    # Of a Pillow that has never heard of it.
    monkeypatch.setattr(formats.features, "modules", {})
    with pytest.raises(UnreadableError, match="AVIF"):
        photos.read(io.BytesIO(b"\0\0\0\x1cftypavif\0\0\0\0mif1" + bytes(99)))


def test_plugins_are_not_loaded_before_their_files_come(tmp_path):
    blocks().save(tmp_path / "a.png")
    code = (
        "import sys; from pathlib import Path; from cfcam_gpu.image_files import reading;"
        "reading.read(Path(sys.argv[1])); sys.exit(any(m in sys.modules for m in ('pillow_heif', 'pillow_jxl')))"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (bytes(344) + b"n+1\0", "NIfTI"),
        (zlib.compress(bytes(344) + b"n+1\0" + bytes(999), wbits=31), "NIfTI, compressed by gzip"),
        (zlib.compress(b"hello", wbits=31), "compressed by gzip"),
        (b"\x1f\x8bhello", "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6", "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b'<?xml version="1.0"?>\n<svg xmlns="...">', "SVG"),
        (b"\xef\xbb\xbf <svg>", "SVG"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", r"a camera's raw file \(CR3\)"),
        (b"II*\0\x10\0\0\0CR\x02\0", r"a camera's raw file \(CR2\)"),
        (b"ZISRAWFILE\0", "CZI"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"PK\3\4", "a ZIP archive"),
        (bytes(257) + b"ustar\0", "a tar archive"),
    ],
)
def test_what_is_known_and_not_read_is_called_by_its_name(head, name):
    with pytest.raises(UnreadableError, match=f"^{name}"):
        photos.read(io.BytesIO(head + bytes(600 * head.startswith(b"%"))))


def test_what_begins_as_an_image_and_is_none_is_a_damaged_one():
    for head, name in ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff\xe0", "JPEG"), (b"GIF89a", "GIF")):
        with pytest.raises(UnreadableError, match=f"a damaged {name}"):
            photos.read(io.BytesIO(head + bytes(20)))
    with pytest.raises(UnreadableError, match="not an image: the file is empty"):
        photos.read(io.BytesIO())


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "MPO", "HEIF", "TIFF"])
def test_pages_are_counted_and_the_first_is_read(form):
    if form == "AVIF" and not formats._has("avif"):
        pytest.skip("Pillow has no AVIF")
    if form == "HEIF":
        module("pillow_heif", "PEERS").register_heif_opener()
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in COLOURS)
    file = encoded(first, form, save_all=True, append_images=others)
    if form == "MPO" and not pillow_reads(file):  # what it has just written
        pytest.skip("this Pillow writes MPO wrongly")
    page = photos.first_page(file)
    assert page.pages == 3
    assert np.abs(np.asarray(page.image).astype(int) - (255, 0, 0)).max() < 9
    assert photos.first_page(encoded(others[0], "JPEG" if form == "MPO" else form)).pages == 1


def test_a_cameras_preview_is_no_page():
    first, other = (Image.new("RGB", (16, 16), colour) for colour in COLOURS[:2])
    data = bytearray(encoded(first, "MPO", save_all=True, append_images=[other]).getvalue())
    assert photos.first_page(io.BytesIO(data)).pages == 2
    # The second entry of its index, 16 bytes each: what Pillow leaves undefined becomes a thumbnail.
    with Image.open(io.BytesIO(data)) as image:
        (size,) = (entry["Size"] for entry in image.mpinfo[0xB002][1:])
    at = data.index(struct.pack("<I", size)) - 4
    data[at : at + 4] = struct.pack("<I", 0x010001)
    assert photos.first_page(io.BytesIO(data)).pages == 1


def test_a_gif_that_is_damaged_behind_its_first_frame_is_read():
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32), np.uint8)) for i in range(3)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]).getvalue()
    counted = set()
    for cut in range(len(whole) // 3 + 900, len(whole), 7):
        page = photos.first_page(io.BytesIO(whole[:cut]))
        np.testing.assert_array_equal(page.image, frames[0].convert("RGB"))
        counted.add(page.pages)
    assert counted <= {1, 2, 3}


def test_a_decoded_image_has_its_pages(tmp_path):
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in COLOURS)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert decode(tmp_path / "a.gif", LITE0).pages == 3
    blocks().save(tmp_path / "b.png")
    assert decode(tmp_path / "b.png", LITE0).pages == 1
    assert decode(tmp_path / "nowhere.png", LITE0).pages is None


@pytest.mark.parametrize("action", ["error", "ignore", "default"])
def test_reading_leaves_the_filters_of_warnings_alone(action, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = encoded(Image.new("L", (15, 10)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        before = list(warnings.filters)
        seen = []
        monkeypatch.setattr(warnings, "catch_warnings", lambda *args, **options: seen.append("catch_warnings"))
        for _ in range(2):
            with pytest.raises(TooLargeError, match="more than Pillow's limit of 100 pixels"):
                photos.read(file)
        assert warnings.filters == before
        assert seen == []
        monkeypatch.undo()


def test_threads_that_read_leave_the_filters_of_warnings_as_they_were():
    file = encoded(blocks(), "PNG").getvalue()
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [photos.read(io.BytesIO(file)) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_pillow_is_quiet_where_it_is_asked_to_be(monkeypatch):
    monkeypatch.setattr(logging.getLogger("PIL"), "level", logging.WARNING)
    damaged = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"
    file = encoded(Image.new("RGB", (4, 4)), "JPEG", exif=damaged)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        photos.read(file)
        assert told
        told.clear()
        photos.quiet()
        photos.read(file)
        warnings.warn("of others", stacklevel=1)
        assert [str(warning.message) for warning in told] == ["of others"]


def test_dimensions_are_those_of_the_header():
    for form in ("PNG", "JPEG", "TIFF", "WEBP", "JPEG2000"):
        assert photos.dimensions(encoded(blocks(), form)) == (56, 40)
    with pytest.raises(UnreadableError, match="DICOM"):
        photos.dimensions(io.BytesIO(bytes(128) + b"DICM"))


def test_a_file_that_can_not_be_sought_is_read():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *args):
            raise io.UnsupportedOperation

    np.testing.assert_array_equal(photos.read(Pipe(encoded(blocks(), "PNG").getvalue())), blocks())
