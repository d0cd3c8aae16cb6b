"""What a slide's tags say, and which files are no slides."""

import os
import sys

import numpy as np
import pytest
import tifffile

from cfcam_gpu.scans.errors import UnreadableError
from cfcam_gpu.slides import process, tags
from cfcam_gpu.slides.errors import SlideError
from cfcam_gpu.slides.info import SlideInfo, inspect

from ..needs import module
from . import files

pytest.importorskip("imagecodecs")


@pytest.fixture(scope="module")
def picture():
    return files.picture(300, 400)


def test_inspected_in_a_process_of_its_own(picture, tmp_path):
    path = files.aperio(tmp_path / "slide \udcff.svs", picture)
    info = inspect(path)
    assert info == tags.read(str(path))
    assert info == SlideInfo.from_json(info.as_json())
    assert (info.width, info.height, info.mpp, info.magnification) == (400, 300, (0.499, 0.499), 20)
    assert (info.bytes, info.modified) == (os.stat(path).st_size, os.stat(path).st_mtime_ns)
    assert not {"tifffile", "cucim", "openslide"} & {name for name in sys.modules if name in tags.__dict__}


def test_levels_are_not_labels_thumbnails_or_others(picture, tmp_path):
    module("cucim", "PEERS")
    path = tmp_path / "slide.tif"
    files.pyramid(path, files.levels(picture, (1, 2)))
    with tifffile.TiffWriter(path, append=True) as file:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
        file.write(files.reduced(picture, 4)[:20], **options)  # of another shape
        file.write(files.reduced(picture, 4), photometric="rgb", rowsperstrip=8, metadata=None)
        file.write(files.reduced(picture, 4)[..., 0], photometric="minisblack", tile=(64, 64), metadata=None)
    info = tags.read(str(path))
    assert [level.downsample for level in info.levels] == [1, 2]
    assert info.reader == "tifffile"
    assert "no levels" in info.reason


@pytest.mark.parametrize(
    ("metadata", "mpp", "magnification"),
    [
        (
            {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"},
            (0.25, 0.25),
            None,
        ),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, (0.5, 0.5), None),
        (
            {"PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 1, "PhysicalSizeYUnit": "pixel"},
            None,
            None,
        ),
        ({}, None, None),
    ],
)
def test_scale_of_ome(metadata, mpp, magnification, picture, tmp_path):
    path = files.pyramid(tmp_path / "s.tif", [picture], writer={"ome": True}, metadata=metadata)
    info = tags.read(str(path))
    assert (info.mpp, info.magnification, info.kind) == (mpp, magnification, "OME-TIFF")


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((20000, 40000), "CENTIMETER", (0.5, 0.25)),
        ((50800, 50800), "INCH", (0.5, 0.5)),
        ((72, 72), "INCH", None),  # a screen's
        ((300, 300), "INCH", None),  # a printer's
        ((20000, 20000), "NONE", None),
        ((0, 0), "CENTIMETER", None),
    ],
)
def test_scale_by_the_tags_of_resolution(resolution, unit, mpp, picture, tmp_path):
    path = files.pyramid(tmp_path / "s.tif", [picture], mpp=None, resolution=resolution, resolutionunit=unit)
    found = tags.read(str(path)).mpp
    assert found == (None if mpp is None else pytest.approx(mpp))


def test_scale_of_imagej(picture, tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", picture, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    assert tags.read(str(tmp_path / "s.tif")).mpp == (0.5, 0.5)


def sixteen(picture):
    return picture.astype(np.uint16)


#: What is written, and what the message must say of it.
REFUSED = {
    "16 bits": (lambda p: [sixteen(p)], {}, "MaxSampleValue"),
    "signed": (lambda p: [p[..., 0].astype(np.int8)], {"photometric": "minisblack"}, "signed"),
    "floating-point": (lambda p: [p.astype(np.float32)], {}, "floating-point"),
    "fluorescence": (
        lambda p: [np.dstack([p, p])[..., :5]],
        {"photometric": "minisblack", "planarconfig": "contig"},
        "fluorescence",
    ),
    "fluorescence of an OME-TIFF": (
        lambda p: [np.moveaxis(p, -1, 0).copy()],
        {"photometric": "minisblack", "writer": {"ome": True}, "metadata": {"axes": "CYX"}},
        "3 planes (C 3)",
    ),
    "a stack of an OME-TIFF": (
        lambda p: [np.stack([p, p])],
        {"writer": {"ome": True}, "metadata": {"axes": "ZYXS"}},
        "2 planes (Z 2)",
    ),
    "several images of an OME-TIFF": (
        lambda p: [p, p],
        {"writer": {"ome": True}, "flag": False, "images": True},
        "2 images",
    ),
    "several pages": (lambda p: [p, p], {"flag": False}, "2 pages of the same size"),
    "CMYK": (lambda p: [np.dstack([p, p[..., :1]])], {"photometric": "separated"}, "SEPARATED"),
    "YCbCr": (lambda p: [p], {"photometric": "ycbcr", "compression": "lzw"}, "YCbCr"),
    "turned": (lambda p: [p], {"extratags": [(274, "H", 1, 6, True)]}, "Orientation"),
    "one strip that must be decoded at once": (
        lambda p: [np.zeros((9500, 9500, 3), np.uint8)],
        {"tile": None, "rowsperstrip": 100000, "compression": "zstd"},
        "258 MiB",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_word(name, picture, tmp_path):
    make, options, said = REFUSED[name]
    options = dict(options)
    if options.pop("images", False):
        with tifffile.TiffWriter(tmp_path / "s.tif", ome=True) as file:
            for level in make(picture):
                file.write(level, photometric="rgb", metadata={"axes": "YXS"})
    else:
        files.pyramid(tmp_path / "s.tif", make(picture), **options)
    with pytest.raises(UnreadableError) as caught:
        tags.read(str(tmp_path / "s.tif"))
    assert said in str(caught.value)
    assert "save" in str(caught.value)
    assert "s.tif" not in str(caught.value)


def test_no_slides(picture, tmp_path):
    (tmp_path / "text").write_text("no slide")
    with pytest.raises(UnreadableError, match="neither a TIFF nor a format that OpenSlide knows"):
        inspect(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "missing")
    whole = files.pyramid(tmp_path / "s.tif", [picture]).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:-100])
    with pytest.raises(UnreadableError, match="cut off"):
        inspect(tmp_path / "cut.tif")
    for length in (4, 8, 60, 200):
        (tmp_path / "cut.tif").write_bytes(whole[:length])
        with pytest.raises(UnreadableError):
            tags.read(str(tmp_path / "cut.tif"))


def test_a_parser_that_dies_or_hangs_is_the_slides_error(picture, tmp_path, monkeypatch):
    path = files.pyramid(tmp_path / "s.tif", [picture])
    broken = tmp_path / "broken"
    broken.mkdir()
    monkeypatch.setattr(sys, "path", [str(broken), *sys.path])
    (broken / "tifffile.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    with pytest.raises(SlideError, match="signal 11"):
        inspect(path)
    (broken / "tifffile.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("cfcam_gpu.slides.info.PATIENCE", 0.1)
    with pytest.raises(SlideError, match=r"no answer for 0\.1 seconds"):
        inspect(path)
    (broken / "tifffile.py").write_text("raise ImportError('gone')\n")
    monkeypatch.setattr("cfcam_gpu.slides.info.PATIENCE", 60.0)
    with pytest.raises(ImportError, match=r"cfcam-gpu\[slides\]"):
        inspect(path)


def test_what_libraries_print_is_no_answer(picture, tmp_path, monkeypatch):
    path = files.pyramid(tmp_path / "s.tif", [picture])
    lines = ["import os", "os.write(1, b'noise')", "print('more')", "class OpenSlide:"]
    lines += ["    detect_format = staticmethod(lambda path: None)"]
    (tmp_path / "openslide.py").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert inspect(path).width == 400


def test_nothing_is_left_of_the_process(picture, tmp_path):
    with process.Process(10.0) as running:
        running.send("inspect", path=str(files.pyramid(tmp_path / "s.tif", [picture])))
        running.receive()
        child = running._child
    assert child.returncode is not None
    assert not running._thread.is_alive()


def pages(path, *written):
    """Write pages, each pixels and the options of its own."""
    with tifffile.TiffWriter(path) as file:
        for pixels, options in written:
            file.write(pixels, **{"photometric": "rgb", "tile": (64, 64), "metadata": None, **options})
    return path


def resolution(mpp):
    return {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("where", ["a later page", "a page within the first"])
def test_the_largest_page_is_the_finest_level_wherever_it_lies(where, flag, picture, tmp_path):
    small = {"subfiletype": flag, **resolution(2.0), **({} if where == "a later page" else {"subifds": 1})}
    path = pages(tmp_path / "s.tif", (files.reduced(picture, 4), small), (picture, resolution(0.5)))
    info = tags.read(str(path))
    assert (info.width, info.height, info.mpp, info.reader) == (400, 300, (0.5, 0.5), "tifffile")
    assert [level.downsample for level in info.levels] == [1, 4]


def test_no_page_is_the_slide_where_tags_contradict_each_other(picture, tmp_path):
    other = picture[:100, :150]
    path = pages(tmp_path / "s.tif", (other, {}), (picture, {}))
    with pytest.raises(UnreadableError, match=r"first page, 150 x 100 pixels, is another .* largest, 400 x 300.*save"):
        tags.read(str(path))
    path = pages(tmp_path / "s.tif", (picture, {"subfiletype": 1}), (files.reduced(picture, 2), {}))
    with pytest.raises(UnreadableError, match=r"largest page, 400 x 300 pixels, is marked.*NewSubfileType.*save"):
        tags.read(str(path))


@pytest.mark.parametrize(
    "beside",
    [
        {"subfiletype": 8},
        {"subfiletype": 9},
        {"subfiletype": 1, "description": "label 100x75"},
        {"description": "Aperio Image Library v11.2.1 \r\nmacro 100x75"},
    ],
    ids=str,
)
def test_a_label_of_the_slides_shape_is_no_level(beside, picture, tmp_path):
    path = pages(tmp_path / "s.tif", (picture, {}), (files.reduced(picture, 2), {"subfiletype": 1}))
    with tifffile.TiffWriter(path, append=True) as file:
        file.write(np.zeros((75, 100, 3), np.uint8), photometric="rgb", tile=(64, 64), metadata=None, **beside)
    assert [level.downsample for level in tags.read(str(path)).levels] == [1, 2]
    # What the slide itself is called makes no label of it.
    path = pages(tmp_path / "s.tif", (picture, {"description": "overview"}), (files.reduced(picture, 2), {}))
    assert [level.downsample for level in tags.read(str(path)).levels] == [1, 2]


@pytest.mark.parametrize(
    ("unit", "value"),
    [("Å", 5000), ("pm", 5e5), ("fm", 5e8), ("m", 5e-7), ("km", 5e-10), ("cm", 5e-5), ("thou", 0.5 / 25.4)],
)
def test_units_of_ome(unit, value, picture, tmp_path):
    told = {f"PhysicalSize{axis}{what}": of for axis in "XY" for what, of in (("", value), ("Unit", unit))}
    path = files.pyramid(tmp_path / "s.tif", [picture], writer={"ome": True}, metadata=told)
    assert tags.read(str(path)).mpp == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("mpp", [2.5e-6, 0.009])
def test_an_absurd_scale_is_none(mpp, picture, tmp_path):
    assert tags.read(str(files.pyramid(tmp_path / "s.tif", [picture], mpp=mpp))).mpp is None


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")  # opened, it would be waited for
    for path in (tmp_path / "pipe.tif", tmp_path, "/dev/null"):
        with pytest.raises(UnreadableError, match="no regular file"):
            inspect(path)
