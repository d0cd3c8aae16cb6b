"""Slides in every layout: the right reader, and the right pixels of it."""

import zlib
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from PIL import Image

from cfcam_gpu.slides import tags
from cfcam_gpu.slides.errors import SlideError
from cfcam_gpu.slides.reading import SlideReader
from cfcam_gpu.slides.region import Region

from ..needs import module
from . import files

pytest.importorskip("imagecodecs")

#: What is written, and who reads it. Each keeps every pixel.
LAYOUTS = {
    "tiles": ({}, "cucim"),
    "LZW": ({"compression": "lzw"}, "tifffile"),
    "deflate": ({"compression": "zlib"}, "cucim"),
    "BigTIFF": ({"writer": {"bigtiff": True}, "compression": "zlib"}, "cucim"),
    "big-endian": ({"writer": {"byteorder": ">"}, "compression": "zlib"}, "cucim"),
    "big-endian BigTIFF": ({"writer": {"byteorder": ">", "bigtiff": True}}, "cucim"),
    "rectangular tiles": ({"tile": (64, 256)}, "cucim"),
    "no flag": ({"flag": False}, "tifffile"),
    "SubIFDs": ({"where": "subifds"}, "tifffile"),
    "SubIFDs of an OME-TIFF": ({"where": "subifds", "writer": {"ome": True}}, "tifffile"),
    "strips": ({"tile": None, "rowsperstrip": 32, "compression": "zlib"}, "tifffile"),
    "one strip": ({"tile": None, "rowsperstrip": 100000}, "tifffile"),
    "planes": ({"planarconfig": "separate", "compression": "lzw"}, "tifffile"),
    "planes in one strip": ({"planarconfig": "separate", "tile": None, "rowsperstrip": 100000}, "tifffile"),
    "differences, LZW": ({"compression": "lzw", "predictor": True}, "tifffile"),
    "differences, deflate": ({"compression": "zlib", "predictor": True}, "tifffile"),
    "zstd": ({"compression": "zstd"}, "tifffile"),
    "WebP": ({"compression": "webp", "compressionargs": {"lossless": True}}, "tifffile"),
    "PackBits": ({"compression": "packbits"}, "tifffile"),
    "LZMA": ({"compression": "lzma"}, "tifffile"),
    "LERC": ({"compression": "lerc"}, "tifffile"),
    "PNG": ({"compression": "png"}, "tifffile"),
    "JPEG XL": ({"compression": "jpegxl", "compressionargs": {"lossless": True}}, "tifffile"),
    "JPEG 2000": ({"compression": "jpeg2000", "compressionargs": {"level": 0}}, "tifffile"),
}


def grey(pixels):
    return pixels[..., 1]


def opacity(pixels):
    """0 to 255, with both ends."""
    height, width = pixels.shape[:2]
    return np.broadcast_to(np.linspace(-40, 300, width).clip(0, 255).astype(np.uint8), (height, width))


def on_white(pixels, alpha):
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


PALETTE = np.arange(256) * np.array([[1], [2], [3]]) % 256


def wide(pixels, white):
    """The same colours, where white is not 255."""
    return (pixels.astype(np.uint32) * white // 255).astype(np.uint16)


def multiplied(pixels, alpha):
    return np.rint(pixels * (alpha[..., None] / 255)).astype(np.uint8)


#: How samples are stored, the options that say so, and the RGB that is meant.
SAMPLES = {
    "grey": lambda p: (grey(p), {"photometric": "minisblack"}, grey(p)[..., None]),
    "white is 0": lambda p: (255 - grey(p), {"photometric": "miniswhite"}, grey(p)[..., None]),
    "16-bit grey": lambda p: (
        wide(grey(p), 65535),
        {"photometric": "minisblack", "extratags": [(281, "H", 1, 65535, True)]},
        grey(p)[..., None],
    ),
    "12-bit colours in 16": lambda p: (wide(p, 4095), {"extratags": [(281, "H", 3, (4095,) * 3, True)]}, p),
    "big-endian 16-bit colours": lambda p: (
        wide(p, 65535).astype(">u2"),
        {"writer": {"byteorder": ">"}, "extratags": [(341, "H", 3, (65535,) * 3, True)], "compression": "zlib"},
        p,
    ),
    "big-endian 16-bit colours in one strip": lambda p: (
        wide(p, 65535).astype(">u2"),
        {"writer": {"byteorder": ">"}, "extratags": [(281, "H", 1, 65535, True)], "tile": None, "rowsperstrip": 100000},
        p,
    ),
    "straight alpha": lambda p: (
        np.dstack([p, opacity(p)]),
        {"extrasamples": ["unassalpha"]},
        on_white(p, opacity(p)),
    ),
    "premultiplied alpha": lambda p: (
        np.dstack([multiplied(p, opacity(p)), opacity(p)]),
        {"extrasamples": ["assocalpha"]},
        on_white(p, opacity(p)),
    ),
    "grey with alpha": lambda p: (
        np.dstack([grey(p), opacity(p)]),
        {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
        on_white(grey(p)[..., None], opacity(p)),
    ),
    "straight alpha and something": lambda p: (
        np.dstack([p, opacity(p), opacity(p)[::-1, ::-1]]),
        {"extrasamples": ["unassalpha", "unspecified"], "planarconfig": "contig"},
        on_white(p, opacity(p)),
    ),
    "something and premultiplied alpha": lambda p: (
        np.dstack([multiplied(p, opacity(p)), opacity(p)[::-1, ::-1], opacity(p)]),
        {"extrasamples": ["unspecified", "assocalpha"], "planarconfig": "contig"},
        on_white(p, opacity(p)),
    ),
    "something beside the colours": lambda p: (np.dstack([p, opacity(p)]), {"extrasamples": ["unspecified"]}, p),
    "palette": lambda p: (
        grey(p),
        {"photometric": "palette", "colormap": (PALETTE * 257).astype(np.uint16)},
        PALETTE.T[grey(p)],
    ),
    "palette of 8 bits": lambda p: (
        grey(p),
        {"photometric": "palette", "colormap": PALETTE.astype(np.uint16)},
        PALETTE.T[grey(p)],
    ),
    "one bit": lambda p: (
        (grey(p) > 128).astype(np.uint8),
        {"photometric": "minisblack", "bitspersample": 1},
        (grey(p) > 128)[..., None] * 255,
    ),
}


@pytest.fixture(scope="module")
def picture():
    return files.picture()


def regions(info):
    """Regions across tiles, at the edges and beyond them, at the scale of each level."""
    for level in info.levels:
        scale = Fraction(level.downsample)
        width, height = level.width, level.height
        yield from (
            Region(x, y, 150, 130, scale)
            for x, y in ((0, 0), (61, 97), (width - 75, height - 33), (-20, -10), (width + 5, 0), (-40, height - 60))
        )


def cut(pixels, region):
    """A region of an array, white outside."""
    height, width = pixels.shape[:2]
    y, x = np.ogrid[region.y : region.y + region.height, region.x : region.x + region.width]
    found = pixels[y.clip(0, height - 1), x.clip(0, width - 1)].astype(np.float64)
    found[(y < 0) | (y >= height) | (x < 0) | (x >= width)] = 255
    return found


def check(path, expected, reader, *, tolerance=0.0):
    if reader == "cucim":
        module("cucim", "PEERS")
    info = tags.read(str(path))
    assert info.reader == reader, info.reason
    assert [(level.width, level.height) for level in info.levels] == [pixels.shape[1::-1] for pixels in expected]
    with closing(SlideReader(info)) as slide:
        for region in regions(info):
            [pixels] = (p for p, level in zip(expected, info.levels) if level.downsample == region.scale)
            found = slide.read(region)
            assert found.shape == (region.height, region.width, 3)
            assert found.dtype == np.uint8
            assert np.abs(found - cut(pixels, region)).max() <= tolerance, region
    return info


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_of_every_layout(layout, picture, tmp_path):
    options, reader = LAYOUTS[layout]
    if reader == "cucim":
        pytest.importorskip("cucim")
    expected = files.levels(picture[:350, :450])
    info = check(files.pyramid(tmp_path / "slide.tif", expected, **options), expected, reader)
    assert info.magnification is None
    assert info.mpp == (None if "ome" in options.get("writer", {}) else pytest.approx((0.5, 0.5)))


@pytest.mark.parametrize("name", SAMPLES)
def test_pixels_of_all_samples(name, picture, tmp_path):
    expected, stored = [], []
    for level in files.levels(picture[:350, :450]):
        samples, options, meant = SAMPLES[name](level)
        stored.append(samples)
        expected.append(np.broadcast_to(meant, (*level.shape[:2], 3)))
    # Rounded once where there is alpha, or 12 bits; twice where colours come multiplied.
    tolerance = 1.01 if "premultiplied" in name else 0.51 if "alpha" in name or "12" in name else 0
    check(files.pyramid(tmp_path / "slide.tif", stored, **options), expected, "tifffile", tolerance=tolerance)


@pytest.mark.parametrize("args", [{}, {"subsampling": (1, 1)}, {"outcolorspace": "rgb"}])
@pytest.mark.parametrize("reader", ["cucim", "tifffile"])
def test_pixels_of_jpeg(reader, args, picture, tmp_path):
    if reader == "cucim":
        pytest.importorskip("cucim")
    options = {"compression": "jpeg", "compressionargs": {"level": 90, **args}, "flag": reader == "cucim"}
    path = files.pyramid(tmp_path / "slide.tif", files.levels(picture), **options)
    with tifffile.TiffFile(path) as file:
        expected = [page.asarray() for page in file.pages]
    assert np.abs(expected[0].astype(int) - picture).mean() < 6
    check(path, expected, reader)


@pytest.mark.parametrize("compression", ["jpeg", "lzw"])
def test_aperio(compression, picture, tmp_path):
    path = files.aperio(tmp_path / "slide.svs", picture, compression=compression)
    with tifffile.TiffFile(path) as file:
        expected = [file.pages[n].asarray() for n in (0, 2)]
    info = check(path, expected, "cucim" if compression == "jpeg" else "tifffile")
    assert info.mpp == (0.499, 0.499)
    assert info.magnification == 20
    assert info.kind == "Aperio slide"


@pytest.mark.parametrize("steps", [(1,), (1, 3), (1, 2, 4, 8)])
@pytest.mark.parametrize("size", [(1, 1), (5, 300), (257, 256), (701, 903)])
def test_pyramids_of_any_size(size, steps, tmp_path):
    steps = [step for step in steps if step <= min(size)]
    expected = files.levels(files.picture(*size), steps)
    info = check(files.pyramid(tmp_path / "slide.tif", expected), expected, "cucim")
    assert [level.downsample for level in info.levels] == steps


def test_missing_tiles_are_white(picture, tmp_path):
    module("cucim", "PEERS")
    # As scanners leave out what they have not scanned.
    expected = picture[:256, :256].copy()
    expected[:128, 128:] = expected[128:, :128] = 255
    tiles = [expected[y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
    encoded = (b"" if (tile == 255).all() else zlib.compress(tile.tobytes()) for tile in tiles)
    path = tmp_path / "slide.tif"
    shape = {"shape": expected.shape, "dtype": np.uint8, "tile": (128, 128), "photometric": "rgb"}
    tifffile.imwrite(path, encoded, compression="zlib", metadata=None, **shape)
    info = check(path, [expected], "tifffile")
    assert "missing" in info.reason


def test_without_cucim_tifffile_reads(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(tags, "find_spec", lambda name: None if name == "cucim" else find_spec(name))
    expected = files.levels(picture)
    info = check(files.pyramid(tmp_path / "slide.tif", expected), expected, "tifffile")
    assert info.reason == "cuCIM is not installed"


@pytest.mark.parametrize("reader", ["cucim", "tifffile"])
@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
@pytest.mark.parametrize("end", [False, True])
def test_a_broken_tile_is_told(end, compression, reader, picture, tmp_path):
    if reader == "cucim":
        pytest.importorskip("cucim")
    options = {"compression": compression, "flag": reader == "cucim"}
    path = files.pyramid(tmp_path / "slide.tif", files.levels(picture), **options)
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[9] + end * (file.pages[0].databytecounts[9] - 100)
        expected = file.pages[0].asarray()[:128, :128]
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(100))
    info = tags.read(str(path))
    assert info.reader == reader
    with closing(SlideReader(info)) as slide:
        assert (slide.read(Region(0, 0, 128, 128)) == expected).all()
        with pytest.raises(SlideError, match="tile at x 128, y 128 of the level of 900 x 700 pixels can't be decoded"):
            slide.read(Region(200, 200, 10, 10))
        # The others are read still.
        assert (slide.read(Region(0, 0, 128, 128)) == expected).all()


def test_dicom_by_openslide(picture, tmp_path):
    pytest.importorskip("openslide")
    info = tags.read(str(files.dicom(tmp_path / "slide", picture)))
    assert (info.kind, info.reader, info.mpp, info.magnification) == ("DICOM slide", "openslide", (0.5, 0.5), 20)
    assert [level.downsample for level in info.levels] == [1, 4]
    with closing(SlideReader(info)) as slide:
        found = slide.read(Region(-10, -20, 920, 740)).astype(int)
        inner = found[20:720, 10:910]
        # JPEG's loss; a pixel aside there would be 20.
        assert np.abs(inner - picture).mean() < 3
        inner[:] = 255
        assert (found == 255).all()
        coarse = slide.read(Region(0, 0, 225, 175, Fraction(4))).astype(int)
        assert np.abs(coarse - files.reduced(picture, 4)).mean() < 3


def test_openslide_gives_the_same_pixels(picture, tmp_path):
    pytest.importorskip("openslide")
    expected = files.levels(picture)
    info = replace(tags.read(str(files.pyramid(tmp_path / "slide.tif", expected))), reader="openslide")
    with closing(SlideReader(info)) as slide:
        for region in regions(info):
            [pixels] = (p for p, level in zip(expected, info.levels) if level.downsample == region.scale)
            assert (slide.read(region) == cut(pixels, region)).all(), region


@pytest.mark.parametrize(
    ("number", "photometric", "reader", "loss"), [(33003, "ycbcr", "openslide", 2), (33005, "rgb", "tifffile", 0)]
)
def test_aperios_jpeg_2000(number, photometric, reader, loss, picture, tmp_path):
    from imagecodecs import jpeg2k_encode

    pytest.importorskip("openslide")
    expected = picture[:512, :512]
    stored = np.asarray(Image.fromarray(expected).convert("YCbCr")) if photometric == "ycbcr" else expected
    tiles = (
        jpeg2k_encode(stored[y : y + 256, x : x + 256].copy(), codecformat="j2k", reversible=True, level=0, mct=False)
        for y in (0, 256)
        for x in (0, 256)
    )
    options = {"photometric": photometric, "compression": number, "tile": (256, 256), "metadata": None}
    if photometric == "ycbcr":
        options["subsampling"] = (1, 1)
    path = tmp_path / "slide.svs"
    text = "Aperio Image Library v11.2.1 \r\n512x512 |AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, tiles, shape=(512, 512, 3), dtype=np.uint8, description=text, **options)
    info = tags.read(str(path))
    assert (info.reader, info.mpp, info.magnification) == (reader, (0.5, 0.5), 20)
    with closing(SlideReader(info)) as slide:
        found = slide.read(Region(0, 0, 512, 512)).astype(int)
    assert np.abs(found - expected).mean() <= loss


def test_formats_of_openslide_are_not_read_by_their_tags_alone(picture, tmp_path, monkeypatch):
    # A Ventana slide's tiles overlap: as a plain TIFF it would be read wrongly.
    monkeypatch.setattr(tags, "find_spec", lambda name: None if name == "openslide" else find_spec(name))
    monkeypatch.setattr(tifffile.TiffFile, "is_bif", True, raising=False)
    with pytest.raises(ImportError, match=r"OpenSlide.*cfcam-gpu\[slides\]"):
        tags.read(str(files.pyramid(tmp_path / "slide.bif", [picture])))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A slide with a level of 4.0034: at the right end it would be four pixels aside."""
    fine = np.full((1109, 20_000, 3), 255, np.uint8)
    fine[:, 19_000:19_100] = 10
    coarse = np.asarray(Image.fromarray(fine).resize((4996, 277), Image.Resampling.BOX))
    return files.pyramid(tmp_path_factory.mktemp("uneven") / "slide.tif", [fine, coarse], compression="lzw")


@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
def test_a_level_whose_ratio_is_no_whole_number_misplaces_nothing(reader, uneven):
    if reader == "openslide":
        pytest.importorskip("openslide")
    info = replace(tags.read(str(uneven)), reader=reader)
    assert info.levels[1].downsample == pytest.approx(4.0034, rel=1e-5)
    with closing(SlideReader(info)) as slide:
        for scale in (Fraction(4), Fraction(9, 2), Fraction(5)):
            first = int(19_000 / scale) - 20
            dark = np.flatnonzero(slide.read(Region(first, 10, 100, 1, scale))[0, :, 0] < 128) + first
            assert max(abs(dark[0] - 19_000 / scale), abs(dark[-1] + 1 - 19_100 / scale)) <= 1


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("steps", [(1, 2, 4), (1, 4)])
def test_whole_numbers_are_means(scale, steps, picture, tmp_path):
    path = files.pyramid(tmp_path / "slide.tif", files.levels(picture[:600, :840], steps), compression="lzw")
    with closing(SlideReader(tags.read(str(path)))) as slide:
        found = slide.read(Region(0, 0, 840 // scale, 600 // scale, Fraction(scale)))
    expected = picture[:600, :840].astype(float)[: 600 // scale * scale, : 840 // scale * scale]
    expected = expected.reshape(600 // scale, scale, 840 // scale, scale, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 1.01  # a level's means are rounded, too


def test_a_thumbnail_is_not_made_of_the_finest_level(picture, tmp_path, monkeypatch):
    # 32 is a whole number of none but the first.
    path = files.pyramid(tmp_path / "slide.tif", files.levels(picture, (1, 3, 9)), compression="lzw")
    with closing(SlideReader(tags.read(str(path)))) as slide:
        read = []
        monkeypatch.setattr(slide.source, "region", lambda *of: read.append(of) or np.zeros((*of[:2:-1], 3), np.uint8))
        slide.read(Region(0, 0, 20, 20, Fraction(32)))
        assert {level for level, *_ in read} == {2}


def test_what_lies_outside_is_not_read(picture, tmp_path, monkeypatch):
    path = files.pyramid(tmp_path / "slide.tif", [picture], compression="lzw")
    with closing(SlideReader(tags.read(str(path)))) as slide:
        inner, read = slide.source.region, []
        monkeypatch.setattr(slide.source, "region", lambda *of: read.append(of[3] * of[4]) or inner(*of))
        for scale in (Fraction(100), Fraction(201, 2)):
            found = slide.read(Region(-100, -100, 1000, 1000, scale))
            assert (found[100:106, 100:108] < 250).all()
            found[100:107, 100:109] = 255
            assert (found == 255).all()
        assert sum(read) < 3e6
