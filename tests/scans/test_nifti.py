"""NIfTI read as nibabel means it, refused where it can't be meant, and maps written into the volume's space."""

import gzip
import io
import logging
import os
import random
import tracemalloc
from collections import Counter

import nibabel
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template

from cfcam_gpu.image_files import photos
from cfcam_gpu.scans.errors import TooLargeError, UnreadableError
from cfcam_gpu.scans.grid import Grid
from cfcam_gpu.scans.nifti import read_nifti, save_nifti
from cfcam_gpu.scans.scan import Scan

from . import phantoms


def refused(file, **options):
    with pytest.raises(UnreadableError) as caught:
        read_nifti(file, **options)
    return str(caught.value)


def stored(tmp_path, values, *, name="x.nii", kind=nibabel.Nifti1Image, affine=None):
    image = kind(values, np.diag([2.0, 2, 2, 1]) if affine is None else affine, dtype=values.dtype)
    nibabel.save(image, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", phantoms.AFFINES)
@pytest.mark.parametrize("file", ["x.nii", "x.nii.gz", "x.hdr", "x.img"])
def test_voxels_lie_where_nibabel_has_them(tmp_path, name, file):
    affine = phantoms.AFFINES[name]
    phantoms.saved(tmp_path / file, affine)
    scan = read_nifti(tmp_path / file)
    assert scan.values.dtype == np.float32
    assert scan.grid.shape == scan.values.shape == phantoms.SHAPE[::-1]
    np.testing.assert_array_equal(scan.values, phantoms.volume().T)
    place = np.unravel_index(scan.values.argmax(), scan.values.shape)
    assert scan.grid.world(place) == pytest.approx(phantoms.spot(affine), abs=1e-4)
    assert scan.grid.spacing == pytest.approx(phantoms.SPACING[::-1])


def test_the_template_of_mni152(tmp_path):
    nibabel.save(load_mni152_template(resolution=2), tmp_path / "t1.nii.gz")
    image = nibabel.load(tmp_path / "t1.nii.gz")
    with open(tmp_path / "t1.nii.gz", "rb") as file:
        scan = read_nifti(file)
    np.testing.assert_array_equal(scan.values, image.get_fdata(dtype=np.float32).T)
    low, high = (float(image.header[name]) for name in ("cal_min", "cal_max"))
    assert scan.window == ((low + high) / 2, high - low)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", ">i2", "u2", "i4", "u4", "i8", "u8", ">f4", "f4", "f8"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_numbers_of_every_kind(tmp_path, dtype, kind):
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    image = kind(values, np.eye(4), dtype=np.dtype(dtype))
    image = kind(values, np.eye(4), image.header.as_byteswapped(">") if dtype.startswith(">") else image.header)
    scan = read_nifti(io.BytesIO(image.to_bytes()))
    np.testing.assert_array_equal(scan.values, values.astype(np.float32).T)


def test_values_are_scaled_as_the_header_says():
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    data = bytearray(nibabel.Nifti1Image(stored, np.eye(4)).to_bytes())
    data[112:120] = np.array([0.5, -1024], "<f4").tobytes()
    np.testing.assert_array_equal(read_nifti(io.BytesIO(bytes(data))).values, stored.T * 0.5 - 1024)


@pytest.mark.parametrize(("sform", "qform", "taken"), [(2, 1, "sform"), (0, 1, "qform"), (0, 0, "spacing")])
def test_which_of_the_places_holds(tmp_path, sform, qform, taken):
    image = nibabel.Nifti1Image(phantoms.volume(), None)
    image.header.set_zooms(phantoms.SPACING)
    image.header.set_sform(phantoms.AFFINES["oblique"], sform)
    image.header.set_qform(phantoms.AFFINES["LPS"], qform)
    nibabel.save(image, tmp_path / "x.nii")
    found = read_nifti(tmp_path / "x.nii").grid.affine
    expected = {"sform": phantoms.AFFINES["oblique"], "qform": phantoms.AFFINES["LPS"]}
    affine = expected.get(taken, image.header.get_base_affine())
    np.testing.assert_allclose(found, phantoms.grid(affine).affine, atol=1e-5)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_lengths_are_millimetres(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(phantoms.volume(), phantoms.AFFINES["RAS"])
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "x.nii")
    assert read_nifti(tmp_path / "x.nii").grid.spacing == pytest.approx(np.multiply(phantoms.SPACING[::-1], factor))


def test_slices_and_axes_of_one_are_volumes(tmp_path):
    for shape in [(5, 4), (5, 4, 1), (5, 4, 1, 1), (5, 4, 1, 1, 1)]:
        values = np.arange(20, dtype=np.float32).reshape(shape)
        assert read_nifti(stored(tmp_path, values)).values.shape == (1, 4, 5)


class TestSeveralVolumes:
    @pytest.fixture
    def four(self, tmp_path):
        return stored(tmp_path, np.random.default_rng(0).random((6, 5, 4, 3), np.float32), name="x.nii.gz")

    def test_one_is_taken_by_its_number(self, four):
        scan = read_nifti(four, volume=2)
        np.testing.assert_array_equal(scan.values, nibabel.load(four).get_fdata(dtype=np.float32)[..., 2].T)
        assert (scan.source.volume, scan.source.volumes) == (2, 3)

    def test_all_are_the_channels_of_a_model_that_has_as_many(self, four):
        scan = read_nifti(four, channels=3)
        expected = np.moveaxis(nibabel.load(four).get_fdata(dtype=np.float32), -1, 0)
        np.testing.assert_array_equal(scan.values, expected.transpose(0, 3, 2, 1))
        assert scan.grid.shape == (4, 5, 6)

    def test_none_is_taken_for_another_without_a_word(self, four, tmp_path):
        assert "3 volumes, and one is to be explained" in refused(four)
        assert "expected 2 volumes, one for each channel of the model; it has 3" in refused(four, channels=2)
        assert "volume: expected one from 0 to 2" in refused(four, volume=3)
        alone = stored(tmp_path, np.ones((4, 4, 4), np.float32))
        assert "expected 3 volumes" in refused(alone, channels=3)

    def test_so_are_a_vectors_parts(self, tmp_path):
        values = np.random.default_rng(0).random((6, 5, 4, 1, 3), np.float32)
        np.testing.assert_array_equal(
            read_nifti(stored(tmp_path, values), channels=3).values[1], values[:, :, :, 0, 1].T
        )

    def test_colours_are_three(self, tmp_path):
        values = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        values["G"] = np.arange(32).reshape(4, 4, 2)
        path = stored(tmp_path, values)
        np.testing.assert_array_equal(read_nifti(path, channels=3).values[1], values["G"].T)
        assert "3 values in each voxel, a colour's" in refused(path)


def test_nan_stays_and_what_is_too_large_is_infinite(tmp_path):
    values = np.array([np.nan, np.inf, 1e300, -1, 2, 3, 4, 5]).reshape(2, 2, 2)
    found = read_nifti(stored(tmp_path, values)).values.T.ravel()
    assert np.isnan(found[0])
    assert np.isposinf(found[1:3]).all()
    np.testing.assert_array_equal(found[3:], [-1, 2, 3, 4, 5])


class TestRefused:
    def test_what_is_none(self, tmp_path):
        (tmp_path / "x.nii").write_bytes(b"nothing of the kind" * 40)
        assert refused(tmp_path / "x.nii") == "not a NIfTI file"
        assert refused(io.BytesIO()) == "not a NIfTI file"
        assert refused(tmp_path / "y.nii") == "No such file or directory"
        assert refused(tmp_path) == "not a regular file"
        os.mkfifo(tmp_path / "pipe.nii")
        assert refused(tmp_path / "pipe.nii") == "not a regular file"  # which would wait for ever

    @pytest.mark.parametrize(("kind", "least"), [(nibabel.Nifti1Image, 352), (nibabel.Nifti2Image, 544)])
    @pytest.mark.parametrize("short", [0, 16, 336])
    def test_voxels_that_begin_in_the_header(self, tmp_path, kind, least, short):
        path = stored(tmp_path, np.ones((4, 4, 4), np.float32), kind=kind)
        header = nibabel.load(path).header
        header["vox_offset"] = short
        path.write_bytes(header.binaryblock + path.read_bytes()[len(header.binaryblock) :])
        said = f"damaged: its voxels begin at byte 0 by its vox_offset, in the header; expected {least} or more"
        assert refused(path).startswith(said if short == 0 else f"damaged: vox offset {short} too low")

    @pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
    def test_what_is_cut_off(self, tmp_path, name, kept):
        path = phantoms.saved(tmp_path / name, np.eye(4), np.random.default_rng(0).random((20, 20, 20), np.float32))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        assert "cut off" in refused(path) or refused(path) == "not a NIfTI file"

    def test_bits_that_gzip_finds_changed(self, tmp_path):
        path = phantoms.saved(tmp_path / "x.nii.gz", np.eye(4))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        refused(path)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("shape", [(30000, 30000, 30000), (1000, 1000, 900), (2, 2, 2, 32000)])
    def test_a_header_that_promises_what_is_not_there_costs_nothing(self, packed, shape):
        header = nibabel.Nifti1Header()
        header.set_data_shape(shape)
        header.set_data_dtype(np.float32)
        header.set_sform(np.eye(4), 1)
        header["vox_offset"] = 352
        data = header.binaryblock + bytes(2000)
        tracemalloc.start()
        said = refused(io.BytesIO(gzip.compress(data) if packed else data), volume=0 if len(shape) > 3 else None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "it promises" in said or "voxels, which are more than" in said or "cut off" in said
        assert peak < 10 << 20

    def test_more_voxels_than_are_allowed(self, tmp_path):
        with pytest.raises(TooLargeError, match="30,720 voxels, which are more than 30,000"):
            read_nifti(phantoms.saved(tmp_path / "x.nii", np.eye(4)), max_voxels=30_000)

    @pytest.mark.parametrize(
        "affine",
        [
            np.diag([1.0, 1, 0, 1]),
            np.diag([1.0, np.nan, 1, 1]),
            [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        ],
    )
    def test_a_place_that_is_none(self, tmp_path, affine):
        data = bytearray(nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes())
        data[280:328] = np.asarray(affine)[:3].astype("<f4").tobytes()
        assert "puts all voxels into a plane, or nowhere" in refused(io.BytesIO(bytes(data)))

    def test_complex_numbers(self, tmp_path):
        assert "complex numbers; save their magnitude" in refused(stored(tmp_path, np.ones((2, 2, 2), np.complex64)))

    def test_analyze(self, tmp_path):
        nibabel.save(nibabel.AnalyzeImage(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "x.img")
        assert "don't tell left from right" in refused(tmp_path / "x.img")

    def test_half_of_a_pair(self, tmp_path):
        phantoms.saved(tmp_path / "x.img", np.eye(4))
        header = (tmp_path / "x.hdr").read_bytes()
        (tmp_path / "x.img").unlink()
        assert "x.img is not beside it" in refused(tmp_path / "x.hdr")
        assert "header of a pair of files" in refused(io.BytesIO(header))

    @pytest.mark.parametrize("dims", [(0, 1, 1, 1), (3, 0, 4, 4), (3, -4, 4, 4), (9, 4, 4, 4), (-1, 4, 4, 4)])
    def test_dimensions_that_are_none(self, dims):
        data = bytearray(nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes())
        data[40:48] = np.array(dims, "<i2").tobytes()
        refused(io.BytesIO(bytes(data)))

    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    @pytest.mark.filterwarnings("error")
    def test_whatever_is_in_a_header_it_is_read_or_refused(self, kind):
        whole = kind(np.ones((5, 6, 7), np.float32), np.diag([2.0, 2, 2, 1])).to_bytes()
        chance = random.Random(0)
        outcomes = Counter()
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 6)):
                data[chance.randrange(540)] = chance.choice([0, 1, 127, 128, 255])
            data = bytes(data[: chance.choice([None, chance.randrange(len(data))])])
            try:
                scan = read_nifti(io.BytesIO(gzip.compress(data, 1) if chance.random() < 0.3 else data))
                outcomes[scan.values.shape == scan.grid.shape] += 1
            except UnreadableError as error:
                outcomes["refused" if "\n" not in str(error) else "in several lines"] += 1
        assert outcomes[True] > 50
        assert outcomes["refused"] > 50
        assert len(outcomes) == 2


@pytest.fixture
def talkative():
    """nibabel's logger as it is at first, and then again as it was."""
    logger = logging.getLogger("nibabel")
    before = logger.level
    logger.setLevel(logging.NOTSET)
    yield
    logger.setLevel(before)


def test_nibabel_is_quiet_where_it_is_asked_to_be(tmp_path, caplog, talkative):
    path = stored(tmp_path, np.ones((4, 4, 4), np.float32))
    data = bytearray(path.read_bytes())
    data[108:112] = np.float32(360).tobytes()  # which is not divisible by 16
    data = bytes(data[:352]) + bytes(8) + bytes(data[352:])
    read_nifti(io.BytesIO(data))
    assert "vox offset" in caplog.text
    caplog.clear()
    photos.quiet()
    read_nifti(io.BytesIO(data))
    assert not caplog.text


class TestSaved:
    @pytest.mark.parametrize("name", phantoms.AFFINES)
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    def test_a_map_has_the_volumes_shape_affine_and_codes(self, tmp_path, name, kind):
        image = kind(phantoms.volume().astype(np.int16), phantoms.AFFINES[name])
        image.set_sform(phantoms.AFFINES[name], 4)
        image.set_qform(phantoms.AFFINES["LPS"], 1, strip_shears=True)
        image.header.set_xyzt_units("mm", "sec")
        image.header["descrip"] = b"Miller, John"
        nibabel.save(image, tmp_path / "x.nii.gz")
        scan = read_nifti(tmp_path / "x.nii.gz")
        values = np.random.default_rng(0).random(scan.grid.shape, np.float32)
        save_nifti(values, tmp_path / "map.nii.gz", like=scan)
        source, found = nibabel.load(tmp_path / "x.nii.gz"), nibabel.load(tmp_path / "map.nii.gz")
        assert type(found) is kind
        assert found.get_data_dtype() == np.float32
        np.testing.assert_array_equal(found.get_fdata(dtype=np.float32), values.T)
        for of in ("sform", "qform"):
            before, after = (getattr(each, f"get_{of}")(coded=True) for each in (source, found))
            np.testing.assert_array_equal(before[0], after[0])
            assert before[1] == after[1]
        assert source.header.get_zooms() == found.header.get_zooms()
        assert source.header.get_xyzt_units()[0] == found.header.get_xyzt_units()[0]
        assert b"Miller" not in gzip.decompress((tmp_path / "map.nii.gz").read_bytes())

    def test_a_map_of_another_grid_comes_back(self, tmp_path):
        affine = phantoms.AFFINES["oblique"]
        scan = read_nifti(phantoms.saved(tmp_path / "x.nii", affine))
        values, grid = scan.grid.oriented(scan.values, "RAS")
        onto = grid.within((-3, -3, -3), (1, 1, 1), tuple(side + 6 for side in grid.shape)).resized((32, 32, 32))
        save_nifti(grid.sampled(values, onto), tmp_path / "map.nii", like=scan, grid=onto)
        back = read_nifti(tmp_path / "map.nii")
        np.testing.assert_allclose(back.grid.affine, scan.grid.affine)
        index = back.grid.index(phantoms.centre_of(back.values, back.grid))
        assert np.abs(index - phantoms.SPOT[::-1]).max() < 0.5

    def test_a_volume_of_no_nifti_has_its_place_too(self, tmp_path):
        grid = phantoms.grid(phantoms.AFFINES["oblique"])
        scan = Scan(phantoms.volume().T, grid, None, "a series")
        save_nifti(scan.values, tmp_path / "map.nii", like=scan)
        np.testing.assert_allclose(read_nifti(tmp_path / "map.nii").grid.affine, grid.affine, atol=1e-5)
        header = nibabel.load(tmp_path / "map.nii").header
        assert header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
        assert header["qform_code"] == header["sform_code"] == 1

    def test_a_shear_is_in_no_qform(self, tmp_path):
        affine = phantoms.AFFINES["oblique"] @ [[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        scan = Scan(phantoms.volume().T, phantoms.grid(affine), None, "a series")
        save_nifti(scan.values, tmp_path / "map.nii", like=scan)
        header = nibabel.load(tmp_path / "map.nii").header
        assert (header["qform_code"], header["sform_code"]) == (0, 1)
        np.testing.assert_allclose(header.get_best_affine(), affine, atol=1e-5)
        np.testing.assert_allclose(header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)

    def test_the_same_map_is_the_same_file(self, tmp_path, monkeypatch):
        scan = read_nifti(phantoms.saved(tmp_path / "x.nii", np.eye(4)))
        save_nifti(scan.values, tmp_path / "a.nii.gz", like=scan)
        monkeypatch.setattr("time.time", lambda: 1e9)
        save_nifti(scan.values, tmp_path / "b.nii.gz", like=scan)
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()

    def test_what_cant_be_written_is_refused(self, tmp_path):
        scan = read_nifti(phantoms.saved(tmp_path / "x.nii", np.eye(4)))
        with pytest.raises(ValueError, match=r"path: expected a name that ends in .nii or .nii.gz"):
            save_nifti(scan.values, tmp_path / "map.npy", like=scan)
        with pytest.raises(ValueError, match=r"values: expected \(24, 32, 40\), as the volume; got \(2, 2, 2\)"):
            save_nifti(np.ones((2, 2, 2)), tmp_path / "map.nii", like=scan)
        with pytest.raises(ValueError, match="values: expected"):
            save_nifti(scan.values, tmp_path / "map.nii", like=scan, grid=Grid((2, 2, 2), np.eye(4)))
        assert not (tmp_path / "map.nii").exists()
