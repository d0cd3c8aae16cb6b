"""TIFF: whatever its samples are, the pixels are right, or the file is refused by what it is."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from cfcam_gpu.image_files import photos, tiff
from cfcam_gpu.image_files.photos import UnreadableError

from .test_reading import pillow_reads

RANDOM = np.random.default_rng(0)
#: What Pillow has no right pixels of, by a part of the reason.
REFUSED = {
    "int8": "signed 8-bit",
    "int16": "signed 16-bit",
    "float16": "16-bit floating-point",
    "float32": "32-bit floating-point",
    "float64": "64-bit floating-point",
    "complex64": "complex bits",
}


def written(pixels, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    return file


def by_hand(rows, bits, *, width, photometric=1, order="<", compressed=False, extra=()):
    """A TIFF of one strip of bytes; what tifffile writes with other packages alone."""
    data = zlib.compress(rows) if compressed else rows
    height = len(rows) * 8 // (bits * width)
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 8 if compressed else 1), (262, 3, photometric)]
    tags += [(273, 4, 0), (277, 3, 1), (278, 3, height), (279, 4, len(data))]
    tags = sorted({tag[0]: tag for tag in (*tags, *extra)}.values())
    start = 8 + 2 + 12 * len(tags) + 4
    table = struct.pack(f"{order}H", len(tags))
    for tag, kind, value in tags:
        value = start if tag == 273 else value
        table += struct.pack(f"{order}HHI", tag, kind, 1)
        table += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return io.BytesIO(head + table + bytes(4) + data)


def packed(values, bits):
    """Values as rows of so many bits each, the highest first."""
    text = "".join(f"{value:0{bits}b}" for value in values.ravel())
    return int(text, 2).to_bytes(len(text) // 8, "big")


def seen(file):
    return np.asarray(photos.read(file)).astype(int)


def seen_or_refused(file):
    """The pixels and None, or None and the reason."""
    try:
        return seen(file), None
    except UnreadableError as error:
        return None, str(error)


def eighth(values, white):
    return np.rint(values.astype(float) * 255 / white).astype(int)


def expected(pixels, photometric, extra):
    """RGB of unsigned (H, W, C) samples, as TIFF 6.0 has them."""
    white = np.iinfo(pixels.dtype).max
    if photometric in ("minisblack", "miniswhite"):
        grey = pixels[..., 0] if photometric == "minisblack" else white - pixels[..., 0]
        colours, alpha = np.repeat(grey[..., None], 3, axis=-1), pixels[..., 1:2]
    else:
        colours, alpha = pixels[..., :3], pixels[..., 3:4]
    colours, alpha = colours / white, alpha / white
    if extra == "unassalpha":
        colours = colours * alpha + 1 - alpha
    elif extra == "assocalpha":
        colours = colours + 1 - alpha
    return 255 * colours


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_every_kind_of_samples_is_right_or_refused(compression, order, planar):
    read = set()
    kinds = itertools.product(
        ("uint8", "uint16", "uint32"), ("minisblack", "miniswhite", "rgb"), (None, "unassalpha", "assocalpha")
    )
    for dtype, photometric, extra in kinds:
        channels = (3 if photometric == "rgb" else 1) + (extra is not None)
        white = np.iinfo(dtype).max
        pixels = RANDOM.integers(0, white, (16, 16, channels), dtype, endpoint=True)
        if extra is not None:
            # Not below the colours that were multiplied by it.
            pixels[..., -1] = np.maximum(pixels.max(axis=-1), white // 2)
        shaped = pixels.squeeze(-1) if channels == 1 else pixels
        how = {"planarconfig": planar} if channels > 1 else {}
        file = written(
            np.moveaxis(pixels, -1, 0).copy() if channels > 1 and planar == "separate" else shaped,
            photometric=photometric,
            extrasamples=[extra] if extra else None,
            compression=compression,
            byteorder=order,
            **how,
        )
        name = f"{dtype} {photometric} {extra}"
        found, reason = seen_or_refused(file)
        if found is None:
            assert "TIFF of" in reason or "16 bits" in reason, f"{name}: {reason}"
            continue
        # Pillow rounds what it multiplies by alpha twice, and drops the lower 8 bits of 16-bit colours.
        assert np.abs(found - expected(pixels, photometric, extra)).max() <= (3 if extra else 1), name
        read.add(name)
    assert read >= {"uint8 minisblack None", "uint8 miniswhite None", "uint8 rgb None", "uint16 minisblack None"}
    assert read >= ({"uint16 miniswhite None"} if order == "<" else set())
    assert read >= ({"uint16 rgb None", "uint8 minisblack unassalpha"} if planar == "contig" else set())


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_of_signed_and_floating_numbers_nobody_knows_black_and_white(compression, order):
    for dtype, reason in REFUSED.items():
        pixels = np.abs(RANDOM.normal(20, 5, (8, 8))).astype(dtype)
        with pytest.raises(UnreadableError, match=reason):
            photos.read(written(pixels, photometric="minisblack", compression=compression, byteorder=order))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_greys_in_32_bits_as_pillow_writes_them(order, compression):
    pixels = RANDOM.integers(0, 65536, (8, 8), np.int32)
    file = written(pixels, photometric="minisblack", byteorder=order, compression=compression)
    if order == ">" and compression:  # Pillow has their bytes in the wrong order
        with pytest.raises(UnreadableError, match="1 channel of 32 signed bits"):
            photos.read(file)
    else:
        np.testing.assert_array_equal(seen(file)[..., 0], eighth(pixels, 65535))


@pytest.mark.parametrize("compressed", [False, True])
def test_12_bits_are_scaled_by_4095(compressed):
    values = np.linspace(0, 4095, 64 * 64).astype(int).reshape(64, 64)
    file = by_hand(packed(values, 12), 12, width=64, compressed=compressed)
    np.testing.assert_array_equal(seen(file)[..., 0], eighth(values, 4095))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_numbers_of_bits_are_right_or_refused(bits, photometric, order):
    values = np.linspace(0, (1 << bits) - 1, 64 * 64).astype(int).reshape(64, 64)
    file = by_hand(packed(values, bits), bits, width=64, photometric=photometric, order=order)
    found, reason = seen_or_refused(file)
    if found is None:
        assert f"1 channel of {bits} bits" in reason
        assert (bits, photometric, order) != (12, 1, "<")
    else:
        white = (1 << bits) - 1
        np.testing.assert_array_equal(found[..., 0], eighth(values if photometric else white - values, white))


@pytest.mark.parametrize("bits", [10, 12, 14, 15])
@pytest.mark.parametrize("tag", [281, 341], ids=["MaxSampleValue", "SMaxSampleValue"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_a_tag_tells_how_many_of_16_bits_are_used(bits, tag, photometric):
    white = (1 << bits) - 1
    values = np.linspace(0, white, 64).astype(np.uint16).reshape(8, 8)
    file = written(values, photometric=photometric, extratags=[(tag, 3, 1, white, True)])
    shown = values if photometric == "minisblack" else white - values
    np.testing.assert_array_equal(seen(file)[..., 0], eighth(shown, white))


def test_a_tag_below_what_there_is_tells_nothing():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for value in (4095, 60000):
        file = written(values, photometric="minisblack", extratags=[(281, 3, 1, value, True)])
        np.testing.assert_array_equal(seen(file)[..., 0], eighth(values, 65535))


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("most", [1, 255, 4095])
def test_12_bits_in_16_of_which_nothing_tells_are_refused_with_the_way_out(photometric, most):
    values = np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)
    with pytest.raises(UnreadableError, match=r"above 4,095.*MaxSampleValue"):
        photos.read(written(values, photometric=photometric))
    # The same picture, dark in truth, where the file says so.
    file = written(values, photometric="minisblack", extratags=[(281, 3, 1, 65535, True)])
    np.testing.assert_array_equal(seen(file)[..., 0], eighth(values, 65535))


@pytest.mark.parametrize(("photometric", "shade"), [("minisblack", 0), ("miniswhite", 255)])
def test_a_picture_of_zeros_is_black_or_white(photometric, shade):
    assert np.unique(seen(written(np.zeros((4, 4), np.uint16), photometric=photometric))).tolist() == [shade]


@pytest.mark.parametrize("most", [0, 255, 4095, 16383])
def test_colours_of_fewer_bits_in_16_are_refused(most):
    values = np.full((4, 4, 3), most, np.uint16)
    tag = [(281, 3, 1, 16383, True)] if most == 16383 else []
    with pytest.raises(UnreadableError, match=r"16-bit colours is above.*scale it to 8 or 16 bits") as refusal:
        photos.read(written(values, photometric="rgb", extratags=tag))
    # The way out is not what the file has already.
    assert ("MaxSampleValue" in str(refusal.value)) is (most != 16383)


def test_black_ink_on_nothing_is_no_picture_of_zeros():
    values = np.zeros((4, 4, 4), np.uint16)
    values[:2, :, 3] = 65535
    found = seen(written(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert (found[:2].max(), found[2:].min()) == (0, 255)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_more_channels_than_colours_are_refused_by_their_number(dtype):
    pixels = RANDOM.integers(0, 200, (8, 8, 5), dtype)
    with pytest.raises(UnreadableError, match=rf"TIFF of 5 channels of {dtype[4:]} bits, which is not read"):
        photos.read(written(pixels, photometric="minisblack", planarconfig="contig"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(("planar", "compression"), [("contig", None), ("separate", None), ("separate", "zlib")])
def test_a_channel_beside_grey_that_is_no_alpha_is_not_left_out(dtype, photometric, planar, compression):
    pixels = RANDOM.integers(0, 200, (8, 8, 2) if planar == "contig" else (2, 8, 8), dtype)
    file = written(pixels, photometric=photometric, planarconfig=planar, compression=compression)
    with pytest.raises(UnreadableError, match=f"TIFF of 2 channels of {dtype[4:]} bits"):
        photos.read(file)


def test_channels_beside_red_green_and_blue_are_left_out():
    pixels = RANDOM.integers(0, 256, (8, 8, 5), np.uint8)
    np.testing.assert_array_equal(seen(written(pixels, photometric="rgb")), pixels[..., :3])


def test_cmyk_is_ink():
    inks = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0], [0, 255, 255, 0]]], np.uint8)
    colours = [[255, 255, 255], [0, 0, 0], [0, 255, 255], [255, 0, 0]]
    assert seen(written(inks, photometric="separated"))[0].tolist() == colours
    deep = inks.astype(np.uint16) * 257
    assert seen(written(deep, photometric="separated"))[0].tolist() == colours


def test_colours_that_are_no_rgb():
    pixels = RANDOM.integers(0, 256, (8, 8, 3), np.uint8)
    with pytest.raises(UnreadableError, match=r"CIE L\*a\*b\*"):
        photos.read(written(pixels, photometric="cielab"))
    file = written(pixels, photometric="ycbcr", subsampling=(1, 1))
    if pillow_reads(file):
        np.testing.assert_array_equal(seen(file), np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB")))
    # Two by two positions have one colour, which is where nothing says otherwise.
    with pytest.raises(UnreadableError, match="3 channels of 8 bits in YCbCr"):
        photos.read(by_hand(bytes(96), 8, width=8, photometric=6, extra=[(277, 3, 3)]))


@pytest.mark.parametrize(
    ("mode", "compression"), [("1", "raw"), ("L", "raw"), ("1", "packbits"), ("L", "packbits"), ("1", "group4")]
)
def test_white_is_zero_in_1_and_8_bits(mode, compression):
    image = Image.new(mode, (16, 2))
    image.paste(255, (0, 0, 8, 2))
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression, tiffinfo={262: 0})
    assert Image.open(file).tag_v2[262] == 0
    found = seen(file)
    assert (found[:, :8].min(), found[:, 8:].max()) == (255, 0)


def test_a_palette_and_its_alpha():
    colours = np.zeros((3, 256), np.uint16)
    colours[0, 1], colours[2, 2] = 65535, 65535
    indices = np.array([[0, 1, 2, 1]], np.uint8)
    found = seen(written(indices, photometric="palette", colormap=colours))
    assert found[0].tolist() == [[0, 0, 0], [255, 0, 0], [0, 0, 255], [255, 0, 0]]


def test_a_compression_and_a_byte_order_that_are_not_read_are_named():
    pixels = np.zeros((8, 8), np.uint8)
    data = written(pixels, photometric="minisblack").getvalue()
    at = data.index(struct.pack("<HHII", 259, 3, 1, 1))
    file = io.BytesIO(data[:at] + struct.pack("<HHII", 259, 3, 1, 34887) + data[at + 12 :])
    with pytest.raises(UnreadableError, match="compression LERC"):
        photos.read(file)
    with pytest.raises(UnreadableError, match="big-endian BigTIFF"):
        photos.read(written(pixels, photometric="minisblack", bigtiff=True, byteorder=">"))
    assert seen(written(pixels, photometric="minisblack", bigtiff=True)).max() == 0


def test_a_cameras_raw_file_is_named():
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UnreadableError, match="camera's raw file"):
        photos.read(written(pixels, photometric="rgb", extratags=[(50706, 1, 4, bytes([1, 4, 0, 0]), True)]))
    with pytest.raises(UnreadableError, match="camera's raw file"):
        photos.read(by_hand(bytes(64), 8, width=8, extra=[(254, 4, 1), (330, 4, 8)]))
    with pytest.raises(UnreadableError, match="camera's raw file"):
        photos.read(by_hand(bytes(64), 8, width=8, photometric=32803))


def pages(*kinds):
    """Pages of 8 x 8, each filled with its place, of these kinds of subfile; masks have 1 bit."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for place, kind in enumerate(kinds):
            pixels = np.full((8, 8), place, bool if kind & 4 else np.uint8)
            tiff.write(pixels, photometric="minisblack", subfiletype=kind)
    return file


@pytest.mark.parametrize(
    ("kinds", "count", "first"),
    [
        ([0], 1, 0),
        ([0] * 40, 40, 0),
        ([2, 2, 2], 3, 0),
        ([0, 1, 1, 1], 1, 0),
        ([0, 4, 1, 5], 1, 0),
        ([1, 0, 0], 2, 1),
        ([1], 1, 0),
    ],
)
def test_pages_are_counted_without_their_copies(kinds, count, first):
    page = photos.first_page(pages(*kinds))
    assert page.pages == count
    assert np.unique(np.asarray(page.image)).tolist() == [first]


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_pages_whatever_the_file_is(order, big):
    stack = np.zeros((7, 16, 16), np.uint8)
    assert photos.first_page(written(stack, photometric="minisblack", byteorder=order, bigtiff=big)).pages == 7


def test_levels_of_a_pyramid_are_no_pages():
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        tiff.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb", subifds=2)
        for side in (32, 16):
            tiff.write(np.zeros((side, side, 3), np.uint8), photometric="rgb", subfiletype=1)
    assert photos.first_page(file).pages == 1


def test_directories_that_lie_over_each_other_have_an_end():
    # Of 200 directories each begins 4 bytes behind the one before and has 60,000 entries.
    entries, count = 60_000, 200
    begins = [8 + 4 * i for i in range(count)]
    heads = struct.pack("<HH", entries, 0) * count
    links = b"".join(struct.pack("<I", begin) for begin in (*begins[1:], 0))
    data = struct.pack("<4sI", b"II*\0", 8) + heads
    data = data.ljust(8 + 2 + 12 * entries, b"\0") + links
    assert len(tiff.pages(io.BytesIO(data))) == 1


def test_directories_in_a_ring_and_a_file_that_is_cut_off_have_an_end():
    data = bytearray(pages(0, 0, 0).getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        offsets = [page.offset for page in tiff.pages]
    (entries,) = struct.unpack_from("<H", data, offsets[2])
    struct.pack_into("<I", data, offsets[2] + 2 + 12 * entries, offsets[0])
    assert photos.first_page(io.BytesIO(data)).pages == 3
    assert photos.first_page(io.BytesIO(data[: offsets[2] + 5])).pages == 2
