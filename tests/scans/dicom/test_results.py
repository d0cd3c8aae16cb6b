"""Maps as DICOM objects: the same numbers, at the right place of the patient, and nothing that a checker objects to."""

import shutil
import subprocess
import warnings
from datetime import datetime

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage

from cfcam_gpu.scans.dicom import placing, reading, results
from cfcam_gpu.scans.dicom.about import About
from cfcam_gpu.scans.dicom.asked import MARK, Asked
from cfcam_gpu.scans.dicom.source import Source

from ...needs import lacking
from . import headers

ABOUT = About(
    model="lite0", method="cfcam", layers=("blocks.5",), target=281, class_name="tabby, tabby cat", probability=0.75
)
ALL = Asked(secondary_capture=True, segment_above=0.5, report=True)
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678)
SOURCES = {
    "CT": headers.placed,
    "sagittal": lambda: headers.placed(directions=headers.SAGITTAL),
    "oblique MR": headers.mr,
    "X-ray": lambda: headers.x_ray(PixelSpacing=[0.2, 0.2], ImageLaterality="L", BurnedInAnnotation="YES"),
    "X-ray, uncalibrated": headers.x_ray,
    "a frame of several": headers.frame,
    "volume": lambda: headers.placed(slices=6),
    "oblique volume": lambda: headers.placed(directions=headers.OBLIQUE, slices=6),
    "lossy": lambda: headers.placed(
        LossyImageCompression="01", LossyImageCompressionRatio="10", LossyImageCompressionMethod="ISO_10918_1"
    ),
    "nothing of the patient": lambda: headers.without(
        "PatientName", "PatientID", "StudyDate", "PatientSex", "AccessionNumber"
    ),
}


def _inner(source):
    """The grid of a network's input: the middle of the source, cut out and resized, as photographs are."""
    whole = placing.pixel_grid(source)
    return whole.within((0, 4, 8), (1, 1, 1), (whole.shape[0], 32, 32)).resized((whole.shape[0], 20, 24))


def _map(shape, seed=0):
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return values / values.max()


def _write(source, folder, values=None, asked=ALL, grid=None, about=ABOUT, **options):
    grid = _inner(source) if grid is None else grid
    values = _map(grid.shape) if values is None else values
    overlay = np.full((64, 80, 3), 90, np.uint8)
    return results.write(
        values, grid, source, about, folder, "a", asked=asked, overlay=overlay, **({"when": WHEN} | options)
    )


#: What is in these two is in others, too.
KINDS = [pytest.param(kind, marks=[pytest.mark.long] * (kind in ("sagittal", "oblique volume"))) for kind in SOURCES]


@pytest.mark.parametrize("kind", KINDS)
def test_no_checker_finds_an_error(kind, tmp_path):
    for tool in ("dciodvfy", "dcmdump", "dsrdump"):
        if shutil.which(tool) is None:
            lacking(f"{tool} is not installed", "DICOM_TOOLS")
    files = _write(SOURCES[kind](), tmp_path)
    assert [file.name for file in files] == ["a.dcm", "a.overlay.dcm", "a.segment.dcm", "a.report.dcm"]
    for file in files:
        said = subprocess.run(["dciodvfy", file], capture_output=True, text=True)
        assert said.returncode == 0
        assert "Error" not in said.stdout + said.stderr, said.stderr
    assert subprocess.run(["dcmdump", "-q", *files], capture_output=True).returncode == 0
    assert subprocess.run(["dsrdump", "-q", files[-1]], capture_output=True).returncode == 0
    if shutil.which("dcm2pnm"):
        subprocess.run(["dcm2pnm", "--write-png", files[1], tmp_path / "a.png"], check=True)


@pytest.mark.parametrize("kind", ["CT", "sagittal", "oblique MR", "volume", "oblique volume"])
def test_values_and_places_are_those_of_the_map(kind, tmp_path):
    source = SOURCES[kind]()
    grid = _inner(source)
    values = _map(grid.shape) * np.float32(0.9)
    values[-1, 5, 17] = 1.0
    file = _write(source, tmp_path, values)[0]
    read = highdicom.pm.sop.pmread(file)
    written = pydicom.dcmread(file)
    assert written.FrameOfReferenceUID == source.headers[0].FrameOfReferenceUID
    volume = read.get_volume(dtype=np.float32)
    at = np.unravel_index(np.argmax(volume.array), volume.shape)
    x, y, z = volume.map_indices_to_reference(np.array([at]))[0]
    np.testing.assert_allclose((-x, -y, z), (grid.affine @ [grid.shape[0] - 1, 5, 17, 1])[:3], atol=1e-6)
    # Bit for bit, though frames may stand in the other order.
    pixels = written.pixel_array.reshape(grid.shape)
    positions = [
        item.PlanePositionSequence[0].ImagePositionPatient for item in written.PerFrameFunctionalGroupsSequence
    ]
    wanted = [np.diag([-1, -1, 1, 1]) @ grid.affine @ [d, 0, 0, 1] for d in range(grid.shape[0])]
    order = [int(np.argmin([np.linalg.norm(np.array(p) - w[:3]) for w in wanted])) for p in positions]
    assert sorted(order) == list(range(grid.shape[0]))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, values[order])


def test_a_tilted_volume_keeps_its_places(tmp_path):
    source = headers.placed(slices=5)
    tilted = source.grid.affine.copy()
    tilted[:3, 0] += [0.0, 0.7, 0.0]
    grid = type(source.grid)(source.grid.shape, tilted)
    file = _write(source, tmp_path, grid=grid)[0]
    read = pydicom.dcmread(file)
    found = [item.PlanePositionSequence[0].ImagePositionPatient for item in read.PerFrameFunctionalGroupsSequence]
    wanted = [(np.diag([-1, -1, 1, 1]) @ tilted @ [d, 0, 0, 1])[:3] for d in range(5)]
    np.testing.assert_allclose(sorted(map(list, found)), sorted(map(list, wanted)), atol=1e-6)


def test_a_sheared_voxel_is_no_brick(tmp_path):
    source = headers.placed(slices=5)
    tilted = source.grid.affine.copy()
    tilted[:3, 0] += [0.0, 1.4, 0.0]
    grid = type(source.grid)(source.grid.shape, tilted)
    assert grid.spacing[0] > grid.thickness == pytest.approx(2.5)
    values = np.zeros(grid.shape, np.float32)
    values[1:4, 10:20, 5:25] = 1.0
    files = _write(source, tmp_path, values, grid=grid)
    for file in (files[0], files[2]):
        [measures] = pydicom.dcmread(file).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert measures.SliceThickness == pytest.approx(2.5)
    [group] = highdicom.sr.srread(files[3]).content.get_image_measurement_groups()
    [found] = [item for item in group.get_measurements() if item.name.meaning == "Volume"]
    assert found.value == pytest.approx(3 * 10 * 20 * 2.5 * 0.75 * 1.5)


def test_planes_without_a_frame_of_reference_share_one_of_their_own(tmp_path):
    source = headers.placed(slices=4)
    for header in source.headers:
        del header.FrameOfReferenceUID
    values = np.zeros(source.grid.shape, np.float32)
    values[1:3, 10:20, 5:25] = 1.0
    parametric, _, segment, _ = _write(source, tmp_path, values, grid=placing.pixel_grid(source))
    frames = [pydicom.dcmread(file).FrameOfReferenceUID for file in (parametric, segment)]
    assert frames[0] == frames[1] != headers.placed().headers[0].FrameOfReferenceUID
    seen = highdicom.seg.segread(segment).get_volume(combine_segments=True)
    whole = highdicom.pm.sop.pmread(parametric).get_volume(dtype=np.float32)
    middles = [one.map_indices_to_reference(np.argwhere(one.array > 0.5)).mean(axis=0) for one in (seen, whole)]
    np.testing.assert_allclose(*middles, atol=1e-6)


def test_without_a_place_the_map_lies_on_the_sources_pixels(tmp_path):
    source = headers.x_ray()
    grid = _inner(source)
    values = np.zeros(grid.shape, np.float32)
    values[0, 10, 6] = 1.0
    written = pydicom.dcmread(_write(source, tmp_path, values)[0])
    pixels = written.pixel_array
    assert pixels.shape == (40, 48)
    # 32 x 32 from row 4 and column 8, in 20 x 24: the middle of (10, 6) is at these rows and columns.
    row, column = 4 + 10.5 * 32 / 20 - 0.5, 8 + 6.5 * 32 / 24 - 0.5
    total = pixels.sum()
    found = (pixels.sum(1) @ np.arange(40) / total, pixels.sum(0) @ np.arange(48) / total)
    np.testing.assert_allclose(found, (row, column), atol=0.2)
    assert not pixels[:3].any()
    assert not pixels[:, :7].any()
    assert "PixelSpacing" not in written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_without_a_place_values_of_the_sources_size_are_unchanged(tmp_path):
    source = headers.x_ray(PixelSpacing=[0.2, 0.3])
    values = _map((1, 40, 48))
    rounded = placing.pixel_grid(source).within((0, 1e-7, -1e-7), (1, 1, 1), (1, 40, 48))
    written = pydicom.dcmread(_write(source, tmp_path, values, grid=rounded)[0])
    np.testing.assert_array_equal(written.pixel_array, values[0])
    assert written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.2, 0.3]


def test_a_place_without_a_frame_of_reference_is_not_shared(tmp_path):
    source = headers.placed()
    del source.headers[0].FrameOfReferenceUID
    written = pydicom.dcmread(_write(source, tmp_path)[0])
    assert written.pixel_array.shape == (40, 48)
    assert written.FrameOfReferenceUID.startswith("2.25.")


def test_what_it_says(tmp_path):
    source = headers.frame(2)
    files = dict(zip(("map", "overlay", "segment", "report"), _write(source, tmp_path)))
    read = {kind: pydicom.dcmread(file) for kind, file in files.items()}
    original = source.headers[0]
    for kind, one in read.items():
        assert (one.PatientName, one.PatientID) == ("Nobody^Nemo", "N-1"), kind
        assert (one.StudyInstanceUID, one.StudyDate) == (original.StudyInstanceUID, original.StudyDate)
        assert one.SeriesInstanceUID != original.SeriesInstanceUID
        assert one.SeriesDescription.startswith(MARK)
    assert len({one.SeriesInstanceUID for one in read.values()}) == 4
    [mapping] = read["map"].SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    said = mapping.QuantityDefinitionSequence
    assert said[0].ConceptCodeSequence[0].CodeValue == "130403"
    assert [item.TextValue for item in said[1:]] == [
        "CF-CAM of lite0",
        f"cfcam-gpu {ABOUT.version}",
        "tabby, tabby cat",
        "281",
        "blocks.5",
    ]
    [derived] = read["map"].PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    [referred] = derived.SourceImageSequence
    assert referred.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert referred.ReferencedFrameNumber == 3
    assert read["map"].ContentDescription == f"{MARK}. CF-CAM of tabby, tabby cat"
    assert read["overlay"].pixel_array.shape[0] > 64  # the mark is below
    np.testing.assert_array_equal(read["overlay"].pixel_array[:64, :80], 90)


def test_what_comes_from_the_source_but_its_patient(tmp_path):
    source = SOURCES["X-ray"]()
    written, overlay, *_ = map(pydicom.dcmread, _write(source, tmp_path))
    assert (written.Laterality, overlay.Laterality, overlay.BurnedInAnnotation) == ("L", "L", "YES")
    lossy = SOURCES["lossy"]()
    written, overlay, *_ = map(pydicom.dcmread, _write(lossy, tmp_path, grid=placing.pixel_grid(lossy)))
    for one in (written, overlay):
        assert (one.LossyImageCompression, one.LossyImageCompressionRatio, one.BurnedInAnnotation) == ("01", 10, "NO")
    [frame] = written.PerFrameFunctionalGroupsSequence
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].SpatialLocationsPreserved == "YES"
    # Of one plane no space between planes is known.
    assert "SpacingBetweenSlices" not in written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert overlay.PatientOrientation == ["L", "P"]
    cut = pydicom.dcmread(_write(lossy, tmp_path)[0])
    [frame] = cut.PerFrameFunctionalGroupsSequence
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].SpatialLocationsPreserved == "NO"


def test_methods_without_gradients_have_another_code():
    assert About(model="m", method="eigencam").code.value == "130402"
    assert About(model="m", method="gradcam").code.value == "130403"


def test_segment_and_report_measure_the_same(tmp_path):
    source = headers.placed()
    grid = placing.pixel_grid(source)
    values = np.zeros(grid.shape, np.float32)
    values[0, 3:7, 10:20] = 0.8
    values[0, 3, 10] = 0.5  # not above
    files = _write(source, tmp_path, values, grid=grid)
    segment = highdicom.seg.segread(files[2])
    assert segment.pixel_array.sum() == 39
    report = highdicom.sr.srread(files[3])
    assert report.VerificationFlag == "UNVERIFIED"
    [group] = report.content.get_image_measurement_groups()
    found = {item.name.meaning: item for item in group.get_measurements()}
    assert found["Probability"].value == 0.75
    assert found["Area"].value == pytest.approx(39 * 0.75 * 1.5)
    [said] = [item for item in group.get_qualitative_evaluations() if item.name.value == "class"]
    assert (said.value.value, said.value.meaning) == ("281", "tabby, tabby cat")
    named = {item.referenced_sop_instance_uid for item in found["Area"].referenced_images}
    assert named == {pydicom.dcmread(file).SOPInstanceUID for file in (files[0], files[2])}


@pytest.mark.parametrize(
    ("source", "name", "unit", "voxel"),
    [("volume", "Volume", "mm3", 2.5 * 1.2 * 2.0), ("X-ray, uncalibrated", "Area", "{pixels}", 1)],
)
def test_units_are_what_the_source_knows(source, name, unit, voxel, tmp_path):
    source = SOURCES[source]()
    files = _write(source, tmp_path)
    above = highdicom.seg.segread(files[2]).pixel_array.sum()
    [group] = highdicom.sr.srread(files[3]).content.get_image_measurement_groups()
    [found] = [item for item in group.get_measurements() if item.name.meaning == name]
    assert found.unit.value == unit
    assert found.value == pytest.approx(above * voxel)


def test_maps_whose_maximum_is_rounded_up_are_read_by_highdicom(tmp_path):
    values = _map((1, 20, 24))
    values[0, 3, 3] = np.nextafter(np.float32(1), np.float32(2))
    read = highdicom.pm.sop.pmread(_write(headers.placed(), tmp_path, values)[0])
    np.testing.assert_array_equal(read.get_frames(dtype=np.float32), values)


def test_an_empty_map(tmp_path):
    source = headers.placed(slices=3)
    files = _write(source, tmp_path, np.zeros(_inner(source).shape, np.float32))
    assert pydicom.dcmread(files[2]).pixel_array.sum() == 0


def test_the_mark_can_be_left_out(tmp_path):
    asked = Asked(secondary_capture=True, segment_above=0.5, report=True, mark=False)
    for file in _write(headers.placed(), tmp_path, asked=asked):
        assert MARK not in str(pydicom.dcmread(file))
    assert pydicom.dcmread(tmp_path / "a.overlay.dcm").pixel_array.shape == (64, 80, 3)


def test_the_same_at_the_same_time_is_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        _write(headers.placed(slices=2), tmp_path / folder)
    (tmp_path / "later").mkdir()
    _write(headers.placed(slices=2), tmp_path / "later", when=datetime(2027, 1, 1))
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
        one, later = pydicom.dcmread(file), pydicom.dcmread(tmp_path / "later" / file.name)
        assert one.SOPInstanceUID != later.SOPInstanceUID


@pytest.mark.parametrize("value", [None, "", "1.2.03", "x" * 65, "1.2.not"])
def test_a_source_without_its_uids_is_refused(value, tmp_path):
    source = headers.placed()
    headers.spoil(source.headers[0], StudyInstanceUID=value)
    with pytest.raises(ValueError, match="StudyInstanceUID"):
        _write(source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_volume_without_a_place_is_refused(tmp_path):
    source = Source((headers.frame().headers[0],), None, None)
    with pytest.raises(ValueError, match="ImagePositionPatient"):
        placing.pixel_grid(source)


def test_what_dicom_does_not_allow_is_left_out_without_a_word(tmp_path):
    source = headers.placed()
    # highdicom warns of names of one part, and repeats them.
    headers.spoil(source.headers[0], PatientName="Alone", ReferringPhysicianName="Other", PatientAge="old",
                  PatientBirthDate="born in May", StudyTime="noon", PatientSex="MALE", StudyID="\\a",
                  AccessionNumber=["1", "2"])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = _write(source, tmp_path)
    for file in files:
        read = pydicom.dcmread(file)
        assert read.PatientName == "Alone"
        assert not any((read.PatientBirthDate, read.StudyTime, read.PatientSex, read.StudyID, read.AccessionNumber))
        assert "PatientAge" not in read


DAMAGED = ("SeriesNumber", "FrameOfReferenceUID", "PatientWeight", "StudyDate", "PatientName")


@pytest.mark.parametrize("value", [b"1e400 ", b"nan ", b"x", b"9" * 200, b"\xff\xfe\0!"])
@pytest.mark.parametrize("keywords", [DAMAGED, *(pytest.param((word,), marks=pytest.mark.long) for word in DAMAGED)])
def test_damaged_values_cost_nothing_but_themselves(keywords, value, tmp_path):
    source = headers.placed()
    for keyword in keywords:
        headers.damage(source.headers[0], keyword, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file in _write(source, tmp_path, asked=Asked(report=True)):
            assert pydicom.dcmread(file).PatientID == "N-1"


def test_names_in_any_letters(tmp_path):
    source = headers.placed(SpecificCharacterSet="ISO_IR 100", PatientName="Ångström^Åsa")
    about = About(model="модель", method="cfcam", target=1, class_name="肺炎 " * 40, probability=None)
    for file in _write(source, tmp_path, about=about):
        read = pydicom.dcmread(file)
        assert read.SpecificCharacterSet == "ISO_IR 192"
        assert str(read.PatientName) == "Ångström^Åsa"
        assert "модель" in read.SeriesDescription


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_palette.dcm", "examples_ybr_color.dcm",
                                  "SC_rgb_small_odd.dcm", "JPEG2000.dcm", "examples_overlay.dcm"])  # fmt: skip
def test_real_files(name, tmp_path):
    source = reading.read_dicom(get_testdata_file(name)).source
    whole = placing.pixel_grid(source)
    files = _write(source, tmp_path, grid=whole.resized((1, 7, 9)))
    assert pydicom.dcmread(files[0]).pixel_array.shape == ((7, 9) if placing.in_patient(source) else whole.shape[1:])
    if shutil.which("dciodvfy"):
        for file in files:
            assert "Error" not in subprocess.run(["dciodvfy", file], capture_output=True, text=True).stderr


def test_of_the_many_instances_of_a_volume_each_is_referred_to(tmp_path):
    source = headers.placed(CTImageStorage, slices=4)
    read = pydicom.dcmread(_write(source, tmp_path)[0])
    [series] = read.ReferencedSeriesSequence
    wanted = [header.SOPInstanceUID for header in source.headers]
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == wanted
    [derived] = read.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    assert [item.ReferencedSOPInstanceUID for item in derived.SourceImageSequence] == wanted
    assert not any("DerivationImageSequence" in frame for frame in read.PerFrameFunctionalGroupsSequence)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_thresholds_that_no_map_or_every_one_is_above(threshold):
    with pytest.raises(ValueError, match="segment_above"):
        Asked(segment_above=threshold)
