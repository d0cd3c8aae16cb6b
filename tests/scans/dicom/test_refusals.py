"""What of DICOM is refused, by which words, and before it takes time or memory."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cfcam_gpu.image_files.photos import TooLargeError, UnreadableError
from cfcam_gpu.scans import read_dicom
from cfcam_gpu.scans.dicom import files

from .written import PATIENT, dataset, encoded

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16

BARE = dataset(RAMP)


def _changed(**elements):
    data = dataset(RAMP)
    for keyword, value in elements.items():
        if value is None:
            del data[keyword]
        else:
            setattr(data, keyword, value)
    return encoded(data)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("rtstruct.dcm", "DICOM without an image: RT Structure Set Storage"),
        ("test-SR.dcm", "DICOM without an image: Comprehensive SR Storage"),
        ("DICOMDIR", "a DICOMDIR, which lists other files: give these, or the folder that they are in"),
        ("MR_truncated.dcm", "its pixels end after 8,130 bytes, and the frame ends at 8,192"),
        (encoded(BARE)[:-100], "its pixels end after 412 bytes"),
        (encoded(BARE)[:-520], "a damaged file of DICOM"),
        (encoded(BARE)[:300], "DICOM"),
        (bytes(128) + b"DICM", "a damaged file of DICOM: it has no elements"),
        (_changed(PixelData=None), "its pixels are missing"),
        (_changed(Rows=None), "damaged file of DICOM: CT Image Storage without its rows and columns; is it cut off"),
        (
            encoded(BARE)[: encoded(BARE).index(b"(\0\x10\0US")],
            "damaged file of DICOM: CT Image Storage without its rows and columns; is it cut off",
        ),
        (_changed(RescaleSlope="1e300"), "Rescale Slope and Intercept make values that are not finite"),
        (_changed(RescaleIntercept="-1e39"), "Rescale Slope and Intercept make values that are not finite"),
        (_changed(Rows=0), "0 pixels|1 frames of 16 x 0"),
        (
            _changed(BitsStored=12, HighBit=15),
            "in the bits 4 to 15 of a word, which is not read: expected the lowest 12",
        ),
        (_changed(PhotometricInterpretation="HSV"), "a damaged|DICOM whose colours are HSV"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "its header has 256 x 1024 pixels, and its compressed frame"),
    ],
)
def test_what_can_not_be_read_is_refused_by_what_it_is(file, message):
    file = io.BytesIO(file) if isinstance(file, bytes) else get_testdata_file(file)
    with pytest.raises(UnreadableError, match=message) as error:
        read_dicom(file)
    assert not [word for word in PATIENT.values() if word in str(error.value)]


def test_videos_and_missing_decoders_are_named(monkeypatch):
    header = pydicom.dcmread(get_testdata_file("JPEG2000.dcm"))
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UnreadableError, match=r"DICOM in MPEG-4 .*4\.102\), which is not read: save its frames as PNG"):
        read_dicom(file)
    from pydicom.pixels.decoders.base import JPEG2000LosslessDecoder

    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(
        UnreadableError, match=r"JPEG 2000 .*4\.90\), for which no decoder .*pip install 'cfcam-gpu\[med"
    ):
        read_dicom(get_testdata_file("MR_small_jp2klossless.dcm"))


def test_a_transfer_syntax_that_is_none_is_not_repeated():
    file = encoded(BARE).replace(b"1.2.840.10008.1.2.1\0\x02\0\x12", b"Mustermann^Erika 123\x02\0\x12")
    with pytest.raises(UnreadableError) as error:
        read_dicom(io.BytesIO(file))
    assert "in a transfer syntax that is none, which is not read" in str(error.value)


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_a_compressed_frame_that_is_cut_off_or_of_another_size_is_refused(name):
    header = pydicom.dcmread(get_testdata_file(name))
    data = bytearray(header.PixelData)
    whole = get_frame(bytes(data), 0, number_of_frames=1)
    header.PixelData = bytes(data).replace(whole, whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UnreadableError, match="cut off"):
        read_dicom(file)
    header = pydicom.dcmread(get_testdata_file(name))
    header.Rows //= 2
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UnreadableError, match=r"its header has .* pixels, and its compressed frame"):
        read_dicom(file)


def test_what_is_too_large_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("cfcam_gpu.scans.dicom.reading.stored", lambda *_: pytest.fail("decoded"))
    with pytest.raises(TooLargeError, match="16 x 16, more than the limit of 255 pixels"):
        read_dicom(io.BytesIO(encoded(BARE)), max_pixels=255)
    with pytest.raises(TooLargeError, match="65535 x 65535, more than the limit of"):
        read_dicom(io.BytesIO(_changed(Rows=65535, Columns=65535)))


def test_a_deflated_bomb_is_unpacked_no_further_than_it_is_looked_at(monkeypatch):
    monkeypatch.setattr("cfcam_gpu.scans.dicom.files.HEADER", 1 << 20)
    many = dataset(np.zeros((400, 128, 128), np.uint16), WindowCenter=5, WindowWidth=9)
    bomb = encoded(many, DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 30_000
    instance = files.Instance(io.BytesIO(bomb))
    assert read_dicom(instance, frame=1).image.size == (128, 128)
    assert len(instance.file._data) < 4 << 20
    private = dataset(RAMP)
    private.add_new(0x00091001, "OB", bytes(5 << 20))
    with pytest.raises(UnreadableError, match="deflated DICOM of more than 1,048,576 bytes before its pixels"):
        read_dicom(io.BytesIO(encoded(private, DeflatedExplicitVRLittleEndian)))


def test_damaged_files_are_refused_and_nothing_else_is_raised():
    draw = np.random.default_rng(0)
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "rtdose.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_gdcm.dcm", "image_dfl.dcm")
    whole = [Path(get_testdata_file(name)).read_bytes() for name in names]
    whole.append(encoded(dataset(RAMP, WindowCenter=5, WindowWidth=9)))
    refused = 0
    for number in range(300):
        data = bytearray(whole[number % len(whole)])
        if number % 3 == 0:
            data = data[: draw.integers(200, len(data))]
        # Most of what tells how the rest is to be read is at the beginning.
        for place in draw.integers(132, min(len(data), 2000), draw.integers(1, 20)):
            data[place] = draw.integers(256)
        try:
            assert read_dicom(io.BytesIO(bytes(data)), max_pixels=1 << 20).image.mode == "RGB"
        except UnreadableError:
            refused += 1
    assert 50 < refused < 300
