"""Series and multi-frame files of DICOM as volumes: in which order, where they lie, and what is no volume."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from cfcam_gpu.image_files.photos import Preparation, TooLargeError, UnreadableError
from cfcam_gpu.image_files.pictures import of
from cfcam_gpu.scans import find_series, read_dicom, read_volume
from cfcam_gpu.scans.dicom.files import Instance

from .written import ROOT, dataset, encoded, item, placed, written

OBLIQUE = {"right": (0.8, 0.36, 0.48), "down": (-0.6, 0.48, 0.64)}
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def slices(folder, places, *, order=None, series=1, **where):
    """Files of slices at `places` along their normal, each of one value; named in another order than they lie."""
    found = []
    for number, z in enumerate(places):
        values = np.full((4, 6), number, np.int16)
        name = (order or [f"{(number * 7) % 97:02d}" for number in range(len(places))])[number]
        elements = placed(z, **where) | {"RescaleSlope": 2, "RescaleIntercept": -1000}
        found.append(written(folder / f"{name}.dcm", values, number=number + 1, series=series, **elements))
    return sorted(found)


def in_patient(grid, d, h, w):
    """DICOM's own coordinates of a voxel."""
    return (TO_RAS @ grid.affine @ [d, h, w, 1])[:3]


@pytest.mark.parametrize("where", [{}, OBLIQUE], ids=["axial", "oblique"])
def test_slices_are_ordered_by_their_positions_and_their_distance_is_the_spacing(tmp_path, where):
    found = read_volume(slices(tmp_path, [5.0, 0.0, 7.5, 2.5], **where))
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values[:, 0, 0], np.array([1, 3, 0, 2]) * 2.0 - 1000)
    np.testing.assert_allclose(found.grid.spacing, (2.5, 0.5, 0.25), atol=1e-5)
    right, down = (np.array(where.get(k, v), float) for k, v in (("right", (1, 0, 0)), ("down", (0, 1, 0))))
    corner = np.array([10.0, 20.0, 30.0])
    np.testing.assert_allclose(in_patient(found.grid, 0, 0, 0), corner, atol=1e-5)
    wanted = corner + 3 * 2.5 * np.cross(right, down) + 2 * 0.5 * down + 5 * 0.25 * right
    np.testing.assert_allclose(in_patient(found.grid, 3, 2, 5), wanted, atol=1e-5)
    assert found.source.uid == f"{ROOT}.2.1"
    assert [header.InstanceNumber for header in found.source.headers] == [2, 4, 1, 3]
    assert found.source.grid is found.grid


def test_a_tilted_gantry_shears_the_grid(tmp_path):
    files = []
    for number in range(4):
        where = placed(0.0) | {"ImagePositionPatient": [10.0, 20.0 + number, 30.0 + 2.0 * number]}
        files.append(written(tmp_path / f"{number}.dcm", np.zeros((4, 6), np.int16), number=number + 1, **where))
    found = read_volume(files[::-1])
    np.testing.assert_allclose(in_patient(found.grid, 3, 0, 0), [10, 23, 36])
    np.testing.assert_allclose(in_patient(found.grid, 0, 2, 4), [11, 21, 30])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([0, 1, 2, 4, 5], r"slices unevenly spaced: 2.00 mm from 32.00 to 34.00 mm along their normal, and 1.00 mm"),
        ([0, 1, 1, 2], r"two slices at one place, 31.00 mm along their normal"),
    ],
)
def test_gaps_and_slices_at_one_place_are_refused(tmp_path, places, message):
    with pytest.raises(UnreadableError, match=message):
        read_volume(slices(tmp_path, places))


def test_places_that_are_rounded_are_even(tmp_path):
    places = np.round(np.arange(40) * 0.626, 1)
    assert read_volume(slices(tmp_path, places)).grid.spacing[0] == pytest.approx(0.626, abs=0.003)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"series": 2}, rf"files of several series, which are no volume: {ROOT}.2.1 and {ROOT}.2.2"),
        (
            {"values": np.zeros((5, 6), np.int16)},
            "slices of several sizes, which are no volume: 6 x 4 and 6 x 5 pixels",
        ),
        (placed(2, right=(0, 1, 0), down=(0, 0, -1)), "slices of several orientations or pixel spacings"),
        (placed(2, spacing=(0.7, 0.25)), "slices of several orientations or pixel spacings"),
        ({"ImagePositionPatient": None}, "1 of 3 slices don't say where they lie"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "slices of several photometric interpretations"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path, other, message):
    files = slices(tmp_path, [0, 1])
    elements = placed(2) | {"values": np.zeros((4, 6), np.int16), "number": 9} | other
    with pytest.raises(UnreadableError, match=message):
        read_volume([*files, written(tmp_path / "z.dcm", **elements)])


def test_colours_and_what_is_too_large_are_no_volume(tmp_path):
    with pytest.raises(UnreadableError, match="a volume in colours"):
        read_volume(written(tmp_path / "a.dcm", np.zeros((2, 4, 6, 3), np.uint8)))
    with pytest.raises(TooLargeError, match="a volume of more than the limit of 47 voxels"):
        read_volume(slices(tmp_path, [0, 1]), max_voxels=47)


def multi_frame(order=(2, 0, 1)):
    """Of which each frame says where it lies, in another order than they do; and what it means."""
    data = dataset(np.stack([np.full((4, 6), number, np.int16) for number in order]))
    where = placed(0.0)
    data.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=where["ImageOrientationPatient"])],
            PixelMeasuresSequence=[item(PixelSpacing=where["PixelSpacing"], SliceThickness=9)],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=placed(1.5 * number)["ImagePositionPatient"])],
            PixelValueTransformationSequence=[item(RescaleSlope=1 + number, RescaleIntercept=10)],
            FrameVOILUTSequence=[item(WindowCenter=40, WindowWidth=400)],
        )
        for number in order
    ]
    return data


def test_frames_of_one_file_are_a_volume_by_their_functional_groups():
    found = read_volume(io.BytesIO(encoded(multi_frame())))
    np.testing.assert_array_equal(found.values[:, 0, 0], [10, 1 * 2 + 10, 2 * 3 + 10])
    np.testing.assert_allclose(found.grid.spacing, (1.5, 0.5, 0.25))
    assert found.window == (39.5, 399)
    assert len(found.source.headers) == 1
    assert found.source.uid == multi_frame().SOPInstanceUID
    # Each by itself lies there, too.
    one = read_dicom(io.BytesIO(encoded(multi_frame())), frame=0).source
    np.testing.assert_allclose(in_patient(one.grid, 0, 0, 0), [10, 20, 33])
    assert one.grid.spacing == pytest.approx((9, 0.5, 0.25))


def test_frames_of_a_dose_lie_at_their_offsets():
    found = read_volume(get_testdata_file("rtdose.dcm"))
    header = found.source.headers[0]
    stored = pydicom.dcmread(get_testdata_file("rtdose.dcm"))
    np.testing.assert_allclose(found.values, stored.pixel_array * float(header.DoseGridScaling), rtol=1e-6)
    x, y, z = header.ImagePositionPatient
    np.testing.assert_allclose(in_patient(found.grid, 14, 0, 0), [x, y, z + header.GridFrameOffsetVector[-1]])


def test_frames_without_places_stay_in_their_order():
    data = dataset(np.stack([np.full((4, 6), number, np.uint8) for number in (3, 1, 2)]))
    data.PixelSpacing, data.SpacingBetweenSlices = [0.5, 0.25], 2
    found = read_volume(io.BytesIO(encoded(data)))
    assert (found.values[:, 0, 0].tolist(), found.source.grid) == ([3, 1, 2], None)
    np.testing.assert_array_equal(found.grid.affine, np.diag([2, 0.5, 0.25, 1]))


def test_a_folder_is_taken_apart_into_its_series(tmp_path):
    first, second = (slices(tmp_path / str(series), [0, 1], series=series) for series in (1, 2))
    (tmp_path / "3").mkdir()
    several = tmp_path / "3" / "many.dcm"
    several.write_bytes(encoded(multi_frame()))
    others = [get_testdata_file("rtstruct.dcm"), __file__, tmp_path / "nowhere"]
    found = find_series([*first, several, *second, *others])
    assert found == {f"{ROOT}.2.1": first, f"{ROOT}.2.2": second, multi_frame().SOPInstanceUID: [several]}


def test_a_slice_lies_where_its_header_says_and_an_x_ray_nowhere():
    grid = read_dicom(get_testdata_file("CT_small.dcm")).source.grid
    header = read_dicom(get_testdata_file("CT_small.dcm")).source.headers[0]
    assert "PixelData" not in header
    np.testing.assert_allclose(in_patient(grid, 0, 0, 0), header.ImagePositionPatient)
    (x, y, z), (rows, columns) = header.ImagePositionPatient, header.PixelSpacing
    np.testing.assert_allclose(in_patient(grid, 0, 2, 3), [x + 3 * columns, y + 2 * rows, z])
    assert read_dicom(get_testdata_file("examples_palette.dcm")).source.grid is None
    far = {"PixelSpacing": [1e30, 1e30]}, {"PixelSpacing": [1e-30, 1e-30]}, {"ImagePositionPatient": [1e300, 0, 0]}
    for said in far:
        spoilt = encoded(dataset(np.zeros((4, 6), np.int16), **placed(0) | said))
        assert read_dicom(io.BytesIO(spoilt)).source.grid is None
    bent = dataset(np.zeros((4, 6), np.int16), **placed(0) | {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]})
    assert read_dicom(io.BytesIO(encoded(bent))).source.grid is None


@pytest.mark.parametrize(("width", "height"), [(60, 40), (37, 53), (300, 40), (31, 200)])
def test_what_the_model_sees_lies_where_preparation_says(width, height):

    from cfcam_gpu.scans import Grid

    preparation = Preparation(32, 36, Image.Resampling.BILINEAR, (0.5,) * 3, (0.5,) * 3)
    grid = Grid((1, height, width), np.diag([5.0, 0.5, 0.25, 1.0]))
    seen = preparation.grid(grid)
    assert seen.shape == (1, 32, 32)
    # A ramp along each axis is the place itself; away from the borders a resized ramp stays one.
    for axis in (1, 2):
        ramp = np.arange(grid.shape[axis]) * 255.0 / (grid.shape[axis] - 1)
        values = np.broadcast_to(ramp[:, None] if axis == 1 else ramp, (height, width))
        pixels = preparation.pixels(Image.fromarray(np.repeat(values[..., None].round().astype(np.uint8), 3, -1)))
        index = np.indices(seen.shape)[:, 0]
        index[0] = 0
        world = np.einsum("ij,jhw->ihw", seen.affine[:3, :3], index) + seen.affine[:3, 3, None, None]
        wanted = world[axis] / grid.spacing[axis] * 255 / (grid.shape[axis] - 1)
        inner = slice(4, -4)
        np.testing.assert_allclose(pixels[0, inner, inner], wanted[inner, inner], atol=1.1)


def test_more_frames_than_there_are_pixels_for_are_not_counted_one_by_one(tmp_path):
    data = dataset(np.zeros((2, 4, 6), np.int16))
    path = tmp_path / "a.dcm"
    for frames, message in (
        (3, "it says that it has 3 frames, and has 96 bytes of pixels"),
        (2_000_000_000, "2,000,000,000 frames, more than the limit of 1,000,000"),
    ):
        data.NumberOfFrames = frames
        path.write_bytes(encoded(data))
        with open(path, "rb") as file, pytest.raises(UnreadableError, match=message):
            Instance(file).check_frames()
        (picture,) = of([path])
        assert picture.name == data.SOPInstanceUID
        with pytest.raises(UnreadableError, match=r"its pixels end|limit of"):
            picture.read(Preparation(32, 36, Image.Resampling.BILINEAR, (0.5,) * 3, (0.5,) * 3))
        with pytest.raises(UnreadableError, match=message):
            read_volume(path)
