"""Images of DICOM as RGB: pydicom's own files against formulas and other decoders, and written ones."""

import io
import itertools
import shutil
import subprocess
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cfcam_gpu.image_files import photos
from cfcam_gpu.image_files.photos import UnreadableError
from cfcam_gpu.scans import read_dicom

from .written import dataset, encoded, item

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16


def shown(data, **options):
    """What is read of a data set, of a file of pydicom's by its name, or of bytes: (H, W, 3) uint8."""
    if isinstance(data, str):
        data = get_testdata_file(data)
    elif isinstance(data, pydicom.Dataset):
        data = io.BytesIO(encoded(data))
    elif isinstance(data, bytes):
        data = io.BytesIO(data)
    return np.asarray(read_dicom(data, **options).image)


def grey(data, **options):
    found = shown(data, **options)
    assert (found == found[..., :1]).all()
    return found[..., 0]


def linear(values, centre, width):
    """PS3.3 C.11.2.1.2.1, value by value."""
    result = []
    for x in np.asarray(values, float).ravel():
        if x <= centre - 0.5 - (width - 1) / 2:
            result.append(0.0)
        elif x > centre - 0.5 + (width - 1) / 2:
            result.append(255.0)
        else:
            result.append(((x - (centre - 0.5)) / (width - 1) + 0.5) * 255)
    return np.reshape(result, np.shape(values))


def exact(values, low, high):
    return np.clip((np.asarray(values, float) - low) / (high - low), 0, 1) * 255


def assert_near(found, expected, by=0.51):
    np.testing.assert_allclose(found.astype(float), expected, atol=by, rtol=0)


def test_signed_values_are_rescaled_and_shown_by_the_window_that_is_given():
    header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    stored = np.frombuffer(header.PixelData, "<i2").reshape(128, 128)
    assert header.PixelRepresentation == 1
    hounsfield = stored.astype(float) + float(header.RescaleIntercept)
    assert_near(grey("CT_small.dcm", window=(40, 400)), exact(hounsfield, -160, 240))
    # It names no window: percentiles.
    assert_near(grey("CT_small.dcm"), exact(hounsfield, *np.percentile(hounsfield, [1, 99])))


MR = [
    *("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"),
]


@pytest.mark.parametrize("name", MR)
def test_one_image_in_every_encoding_is_shown_by_its_own_window(name):
    header = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    stored = np.frombuffer(header.PixelData, "<i2").reshape(64, 64)
    assert_near(grey(name), linear(stored, float(header.WindowCenter), float(header.WindowWidth)))


def _by_dcmtk(path, frame, window, folder):
    """What dcmtk shows, or None if it reads no such encoding; `window` is exact, dcmtk's LINEAR."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    options = ["+F", str(frame + 1), "-O"]
    if str(header.PhotometricInterpretation).startswith("MONO"):
        options += ["+Ww", str(window[0] + 0.5), str(window[1] + 1)] if window else ["+Wi", "1"]
    for program in ("dcm2pnm", "dcmj2pnm", "dcml2pnm"):
        command = [program, *options, "+op", path, str(folder / "x.pnm")]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return np.asarray(Image.open(folder / "x.pnm").convert("RGB")).astype(int)
    return None


COLOURS = [
    *("SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm"),
    *("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd_jpeg.dcm"),
    *("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm"),
    *("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", "ExplVR_BigEnd.dcm"),
    *("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"),
    *("SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"),
    *("examples_palette.dcm", "examples_ybr_color.dcm", "examples_rgb_color.dcm"),
]
GREYS = ["examples_overlay.dcm", "liver_1frame.dcm", "image_dfl.dcm", "JPEGLSNearLossless_16.dcm", "JPGExtended.dcm"]


@pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="dcmtk is not installed")
@pytest.mark.parametrize("name", [*COLOURS, *GREYS, *MR[:4]])
def test_another_library_shows_the_same(name, tmp_path):
    path = get_testdata_file(name)
    header = pydicom.dcmread(path, stop_before_pixels=True)
    windows = [(100.0, 357.0)] if name in GREYS else [None]
    if name in GREYS and "WindowWidth" in header:
        windows.append(None)
    for frame, window in itertools.product({0, int(header.get("NumberOfFrames", 1)) - 1}, windows):
        theirs = _by_dcmtk(path, frame, window, tmp_path)
        assert theirs is not None
        # What loses in compression is decoded by others with other roundings.
        lossy = 3 if header.file_meta.TransferSyntaxUID.is_compressed else 1
        assert np.abs(shown(name, frame=frame, window=window).astype(int) - theirs).max() <= lossy


@pytest.mark.parametrize("name", ["SC_rgb_gdcm_KY.dcm", "examples_jpeg2k.dcm"])
def test_colours_of_jpeg_2000_are_those_of_its_codestream(name):
    header = pydicom.dcmread(get_testdata_file(name))
    with Image.open(io.BytesIO(get_frame(header.PixelData, 0, number_of_frames=1))) as wanted:
        np.testing.assert_array_equal(shown(name), np.asarray(wanted.convert("RGB")))


def test_a_palette_of_16_bits_is_scaled_to_8():
    header = pydicom.dcmread(get_testdata_file("examples_palette.dcm"))
    count, first, bits = header.RedPaletteColorLookupTableDescriptor
    assert (first, bits) == (0, 16)
    stored = np.frombuffer(header.PixelData, np.uint8)[: 350 * 800].reshape(350, 800)
    tables = [np.frombuffer(header[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")]
    wanted = np.stack([table[np.minimum(stored, (count or 65536) - 1)] for table in tables], axis=-1)
    np.testing.assert_array_equal(shown("examples_palette.dcm"), wanted >> 8)
    assert wanted.max() == 0xFF00  # which is white


def test_palettes_of_8_bits_with_many_entries_and_a_first_one_below_zero():
    entries = (np.arange(4096) // 16).astype(np.uint8)
    values = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    data = dataset(values, PhotometricInterpretation="PALETTE COLOR")
    for colour, table in (("Red", entries), ("Green", entries[::-1]), ("Blue", entries * 0)):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [4096, -2048, 8])
        setattr(data, f"{colour}PaletteColorLookupTableData", table.tobytes())
    found = shown(data).reshape(-1, 3)
    np.testing.assert_array_equal(found, np.stack([entries, entries[::-1], entries * 0], axis=-1))


def test_16_bit_entries_of_which_the_higher_8_are_empty_are_8_bits():
    data = dataset(np.arange(256, dtype=np.uint8).reshape(16, 16), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype="<u2").tobytes())
    np.testing.assert_array_equal(grey(data).ravel(), np.arange(256))


def test_segmented_palettes_are_read():
    data = dataset(np.arange(256, dtype=np.uint8).reshape(16, 16), PhotometricInterpretation="PALETTE COLOR")
    ramp = np.array([0, 1, 0, 1, 255, 65535], "<u2")  # the entry 0, then 255 entries up to 65535
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"Segmented{colour}PaletteColorLookupTableData", ramp.tobytes())
    assert_near(grey(data).ravel(), np.arange(256), by=1)


def test_monochrome1_is_inverted_and_only_it():
    said = {"WindowCenter": 2048, "WindowWidth": 4096}
    upright = grey(dataset(RAMP, **said))
    inverted = grey(dataset(RAMP, PhotometricInterpretation="MONOCHROME1", **said))
    assert upright[0, 0] == 0
    assert upright[-1, -1] == 254
    np.testing.assert_array_equal(inverted.astype(int) + upright, 255)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"WindowCenter": [40, 300], "WindowWidth": [400, 1500]}, lambda x: linear(x, 40, 400)),
        (
            {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
            lambda x: exact(x, 40 - 200, 40 + 200),
        ),
        (
            {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
            lambda x: 255 / (1 + np.exp(-4 * (x - 40) / 400)),
        ),
        ({"WindowCenter": 40, "WindowWidth": 1}, lambda x: np.where(x > 39.5, 255.0, 0.0)),
        # What names no window that there can be has none.
        ({"WindowCenter": 40, "WindowWidth": 0}, lambda x: exact(x, *np.percentile(x, [1, 99]))),
    ],
)
def test_windows_are_those_of_the_standard(said, wanted):
    values = np.arange(-1024, 1024, 8, dtype=np.int16).reshape(16, 16)
    assert_near(grey(dataset(values, **said)), wanted(values.astype(float)))
    slope = dataset(values, RescaleSlope=2, RescaleIntercept=-500, **said)
    assert_near(grey(slope), wanted(values * 2.0 - 500))


def test_a_voi_lut_of_8_bits_and_many_entries_is_looked_up_by_what_the_values_mean():
    entries = (np.arange(4096) // 16).astype(np.uint16)
    table = item(LUTDescriptor=[4096, -1000, 8], LUTData=entries.tolist())
    table["LUTDescriptor"].VR = "SS"
    table["LUTData"].VR = "US"
    values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    data = dataset(values, RescaleSlope=1, RescaleIntercept=-1000, VOILUTSequence=[table])
    np.testing.assert_array_equal(grey(data), values // 16)
    # A window goes before it.
    data.WindowCenter, data.WindowWidth = 0, 100
    assert_near(grey(data), linear(values - 1000.0, 0, 100))


def test_a_voi_lut_that_begins_below_zero_does_so_without_vrs_too():
    values = np.array([[0, 624, 824, 924, 1024, 1424, 2000, 4000]], np.uint16)
    table = item(LUTDescriptor=[400, -200, 16], LUTData=np.linspace(0, 65535, 400).astype("<u2").tobytes())
    table["LUTDescriptor"].VR, table["LUTData"].VR = "SS", "OW"
    data = dataset(values, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=[table])
    wanted = np.clip((values - 824.0) / 399, 0, 1) * 255
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        assert_near(grey(encoded(data, syntax)), wanted, by=1)


def test_a_modality_lut_goes_before_the_window():
    table = item(LUTDescriptor=[256, 10, 16], LUTData=(np.arange(256) ** 2).tolist(), ModalityLUTType="US")
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = dataset(values, ModalityLUTSequence=[table], WindowCenter=3000, WindowWidth=2000)
    assert_near(grey(data), linear(np.clip(values.astype(float) - 10, 0, 255) ** 2, 3000, 2000))


def test_8_bits_without_a_window_are_taken_as_they_are_and_others_by_percentiles_without_padding():
    eight = np.tile(np.arange(50, 150, dtype=np.uint8), (4, 1))
    np.testing.assert_array_equal(grey(dataset(eight)), eight)
    padded = RAMP.copy()
    padded[:8] = 63000
    assert_near(grey(dataset(padded))[8:], exact(RAMP[8:], *np.percentile(padded, [1, 99])))
    said = dataset(padded, PixelPaddingValue=62000, PixelPaddingRangeLimit=64000)
    assert_near(grey(said)[8:], exact(RAMP[8:], *np.percentile(RAMP[8:], [1, 99])))
    assert (grey(dataset(np.full((4, 4), 700, np.uint16))) == 0).all()


def test_12_bits_ignore_what_is_in_the_others():
    values = RAMP | 0xF000
    data = dataset(values, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(grey(data), grey(dataset(RAMP, WindowCenter=2048, WindowWidth=4096)))


def test_floating_point_values_are_read_with_their_window():
    values = np.linspace(-1, 2, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0] = np.nan
    wanted = exact(np.nan_to_num(values, nan=-1), 0, 1)
    assert_near(grey(dataset(values, WindowCenter=0.5, WindowWidth=1)), wanted)
    assert_near(grey(dataset(values), window=(0.5, 1)), wanted)


def test_colours_of_16_bits_and_of_planes():
    colours = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), np.uint16)
    assert_near(shown(dataset(colours)), colours / 257)
    planes = dataset(colours)
    planes.PlanarConfiguration, planes.PixelData = 1, np.moveaxis(colours, -1, 0).astype("<u2").tobytes()
    np.testing.assert_array_equal(shown(planes), shown(dataset(colours)))


def test_colours_of_fewer_bits_are_as_bright_as_of_8():
    colours = np.random.default_rng(0).integers(0, 32, (6, 5, 3), np.uint8)
    assert_near(shown(dataset(colours, BitsStored=5, HighBit=4)), colours * (255 / 31))


@pytest.mark.parametrize("side", [(5, 5), (7, 9), (1, 31), (8, 8)])
def test_frames_of_one_bit_begin_within_bytes(side):
    values = np.random.default_rng(0).integers(0, 2, (11, *side), np.uint8)
    data = dataset(values, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(values.ravel(), bitorder="little").tobytes()
    data.PixelData = packed + bytes(len(packed) % 2)
    file = encoded(data)
    for frame, wanted in enumerate(values):
        found = np.asarray(read_dicom(io.BytesIO(file), frame=frame).image)
        np.testing.assert_array_equal(found[..., 0], 255 * wanted)


@pytest.mark.parametrize("window", [(0, 1e-300), (1e300, 1), (-1e300, 5), (0, 1e300), (1e39, 1e39)])
def test_windows_beyond_float32(window):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grey(dataset(np.array([[-7, 0, 7]], np.int16)), window=window)
    centre, width = window
    wanted = [[round(255 * min(1, max(0, value / width - centre / width + 0.5))) for value in (-7, 0, 7)]]
    assert_near(found, wanted)


def test_overlays_are_not_burnt_in():
    header = pydicom.dcmread(get_testdata_file("examples_overlay.dcm"))
    with_them = grey("examples_overlay.dcm")
    for element in [element for element in header if element.tag.group & 0xFF00 == 0x6000]:
        del header[element.tag]
    np.testing.assert_array_equal(grey(header), with_them)


def test_each_frame_has_its_own_values_and_window():
    frames = np.stack([RAMP, RAMP[::-1]])
    data = dataset(frames)
    data.SharedFunctionalGroupsSequence = [
        item(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-100)])
    ]
    data.PerFrameFunctionalGroupsSequence = [
        item(FrameVOILUTSequence=[item(WindowCenter=centre, WindowWidth=500)]) for centre in (300, 900)
    ]
    for frame, centre in enumerate((300, 900)):
        assert_near(grey(data, frame=frame), linear(frames[frame] * 2.0 - 100, centre, 500))
        found = read_dicom(io.BytesIO(encoded(data)), frame=frame)
        assert (found.frames, found.source.uid) == (2, f"{data.SOPInstanceUID}.frame{frame + 1}")
    with pytest.raises(UnreadableError, match="frame: expected 1 to 2; got 3"):
        shown(data, frame=2)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=str
)
def test_encodings_of_the_header_do_not_matter(syntax):
    data = dataset(RAMP, WindowCenter=1000, WindowWidth=900)
    wanted = grey(data)
    data["PixelData"].value = RAMP.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    found = encoded(data, syntax)
    np.testing.assert_array_equal(grey(found), wanted)
    if syntax != DeflatedExplicitVRLittleEndian:  # also without preamble and first group
        length = int.from_bytes(found[140:144], "little")
        bare = found[144 + length :]
        assert photos.read(io.BytesIO(bare)).size == (16, 16)
        np.testing.assert_array_equal(grey(bare), wanted)


def test_photographs_read_takes_it_and_a_photograph_has_no_frames(tmp_path):
    np.testing.assert_array_equal(
        np.asarray(photos.read(get_testdata_file("CT_small.dcm"), window=(40, 400))),
        shown("CT_small.dcm", window=(40, 400)),
    )
    assert photos.dimensions(get_testdata_file("examples_palette.dcm")) == (800, 350)
    # Its preamble is the beginning of a TIFF.
    turned = photos.read(get_testdata_file("MR_small_bigendian.dcm"))
    np.testing.assert_array_equal(np.asarray(turned), shown("MR_small.dcm"))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match=r"^frame: expected the first, as it is no file of DICOM; got 2"):
        photos.read(tmp_path / "a.png", frame=1)


def test_reading_leaves_the_filters_of_warnings_alone():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        shown("JPEGLSNearLossless_08.dcm")
        assert warnings.filters == before
        photos.quiet()
        told.clear()
        shown("SC_rgb_jpeg.dcm")
        assert not told
