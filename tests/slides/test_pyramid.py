"""Pyramids that viewers open: what is in them is the map, where it belongs."""

from xml.etree import ElementTree

import numpy as np
import ome_zarr_models.v05
import pytest
import tifffile
import tiffslide
import zarr
from ome_zarr_models.common.omero import Omero

from cfcam_gpu.slides import pyramid

pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice")

KINDS = {"ome.tif": pyramid.write_tiff, "ome.zarr": pyramid.write_zarr}


@pytest.fixture
def values():
    found = np.random.default_rng(0).random((2, 700, 1101), np.float32)
    found[:, 300:420, 500:] = np.nan
    return found


@pytest.fixture
def channels(values, tmp_path):
    found = {}
    for name, of_channel in zip(("evidence", "probability"), values):
        (tmp_path / name).write_bytes(of_channel.tobytes())
        found[name] = pyramid.levels(pyramid.Raster(tmp_path / name, *of_channel.shape))
    return found


def test_names_that_xml_can_not_hold(channels, tmp_path):
    path, name = tmp_path / "map.ome.tif", "a\x01b\udcff\ufffe\N{MICROSCOPE}.svs"
    pyramid.write_tiff(path, channels, mpp=(4.0, 4.0), origin=(0.0, 0.0), name=name, label="\x0b\x1f")
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    (image,) = (each for each in root if each.tag.endswith("Image"))
    assert image.get("Name") == "a\ufffdb\ufffd\ufffd\N{MICROSCOPE}.svs: \ufffd\ufffd"


def halves(values):
    whole = np.pad(values, [(0, 0), *((0, side % 2) for side in values.shape[1:])], constant_values=np.nan)
    return np.nanmean(whole.reshape(2, whole.shape[1] // 2, 2, -1, 2), axis=(2, 4))


def levels(values):
    found = [values]
    while max(found[-1].shape) > pyramid.PIECE:
        found.append(halves(found[-1]))
    return found


def written(path, channels):
    write = KINDS["ome.tif" if path.suffix == ".tif" else "ome.zarr"]
    write(path, channels, mpp=(4.0, 4.2), origin=(1.75, 1.85), name="slide.svs", label="tumour <&>")
    return path


def test_tifffile_reads_the_map_and_its_levels(values, channels, tmp_path):
    path = written(tmp_path / "map.ome.tif", channels)
    with tifffile.TiffFile(path) as file:
        (series,) = file.series
        assert (series.axes, series.dtype, series.kind) == ("CYX", np.float32, "ome")
        assert len(series.levels) == len(channels["evidence"]) == 4
        for level, expected in zip(series.levels, levels(values), strict=True):
            np.testing.assert_allclose(level.asarray(), expected, rtol=1e-6)
            assert level.keyframe.is_tiled
        assert np.array_equal(series.asarray(), values, equal_nan=True)
        assert [len(page.subifds) for page in file.pages] == [3, 3]
        said = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    assert (said["Pixels"]["PhysicalSizeX"], said["Pixels"]["PhysicalSizeY"]) == (4.0, 4.2)
    assert said["Pixels"]["PhysicalSizeXUnit"] == "µm"
    assert said["Name"] == "slide.svs: tumour <&>"
    assert [channel["Name"] for channel in said["Pixels"]["Channel"]] == ["evidence", "probability"]


def test_tiffslide_sees_the_pyramid(values, channels, tmp_path):
    with tiffslide.TiffSlide(written(tmp_path / "map.ome.tif", channels)) as slide:
        assert slide.level_dimensions == ((1101, 700), (551, 350), (276, 175), (138, 88))
        assert (slide.properties["tiffslide.mpp-x"], slide.properties["tiffslide.mpp-y"]) == (4.0, 4.2)
        found = slide.read_region((300, 200), 0, (90, 70), as_array=True)
    assert np.array_equal(found, np.moveaxis(values[:, 200:270, 300:390], 0, -1), equal_nan=True)


def test_ome_zarr_is_valid_and_lies_over_the_slide(values, channels, tmp_path):
    path = written(tmp_path / "map.ome.zarr", channels)
    group = zarr.open_group(path, mode="r")
    image = ome_zarr_models.v05.Image.from_zarr(group)
    (multiscale,) = image.ome_attributes.multiscales
    for number, (dataset, expected) in enumerate(zip(multiscale.datasets, levels(values), strict=True)):
        array = group[dataset.path]
        np.testing.assert_allclose(array[:], expected, rtol=1e-6)
        assert array.dtype == np.float32
        scale, shift = dataset.coordinateTransformations
        assert scale.scale == [1, 4.2 * 2**number, 4.0 * 2**number]
        # The first pixel's upper left corner is that of the slide, on each level.
        corner = np.array(shift.translation[1:]) - np.array(scale.scale[1:]) / 2
        np.testing.assert_allclose(corner, [1.85 - 2.1, 1.75 - 2.0])
    assert [(axis.name, axis.type) for axis in multiscale.axes] == [("c", "channel"), ("y", "space"), ("x", "space")]
    assert [axis.unit for axis in multiscale.axes[1:]] == ["micrometer"] * 2
    shown = Omero(**image.ome_attributes.omero)
    assert [channel.label for channel in shown.channels] == ["evidence", "probability"]


@pytest.mark.parametrize("suffix", KINDS)
def test_the_same_map_is_the_same_file(channels, tmp_path, suffix):
    def contents(folder):
        path = written(folder / f"map.{suffix}", channels)
        assert not list(folder.glob(".*"))
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        return {each.relative_to(folder): each.read_bytes() for each in files}

    (tmp_path / "other").mkdir()
    first = contents(tmp_path / "other")
    # Over one that is there, and what a killed process left.
    (tmp_path / "other" / f".map.{suffix}.part").write_bytes(b"half")
    assert contents(tmp_path / "other") == first
