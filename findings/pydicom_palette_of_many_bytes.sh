#!/usr/bin/env bash
# pydicom's apply_color_lut counts the places of a palette by the bits of its entries, not of the pixels: of one with
# more than 256 entries of 8 bits it takes the places modulo 256.
#
# Expected: the entry for each pixel, the last for what is above. LUT Descriptor's first value, the number of entries,
# may be any to 65536, and its third, the bits of each, is 8 or 16 (PS3.3 C.7.6.3.1.5); pixels may have 16 bits.
#
# Seen: of 1000 entries of 8 bits from red 0 to red 255, pixels 500 and 999 are red 62 and 58, not 127 and 255. The
# same palette in entries of 16 bits is right, and so is DCMTK's dcm2pnm with both. Nothing warns.
#
# It hurts images of colour-coded measurements, as of perfusion or Doppler, of more than 8 bits: the scale of colours
# is run through four times, and the network sees hot where the file has cold.
#
# cfcam_gpu looks palettes up itself (cfcam_gpu/scans/dicom/tables.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 pydicom==3.0.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

print("pydicom", pydicom.__version__)
PIXELS, ENTRIES = [0, 200, 500, 999, 2000], 1000


def seen(bits):
    """The reds of PIXELS by a palette whose entries have some bits."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.ConversionType, image.SeriesNumber, image.InstanceNumber = "OT", "WSD", 1, 1
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(image, empty, "")
    for empty in ("AccessionNumber", "ReferringPhysicianName", "PatientOrientation", "Laterality"):
        setattr(image, empty, "")
    image.Rows, image.Columns, image.SamplesPerPixel = 1, len(PIXELS), 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PhotometricInterpretation = "PALETTE COLOR"
    ramp = np.linspace(0, 2**bits - 1, ENTRIES).astype(f"<u{bits // 8}")
    for colour in ("Red", "Green", "Blue"):
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [ENTRIES, 0, bits])
        setattr(image, f"{colour}PaletteColorLookupTableData", ramp.tobytes())
    image.PixelData = np.array(PIXELS, np.uint16).tobytes()
    pydicom.dcmwrite("image.dcm", image, enforce_file_format=True)
    image = pydicom.dcmread("image.dcm")
    return apply_color_lut(image.pixel_array, image)[0, :, 0].tolist(), ramp[np.minimum(PIXELS, ENTRIES - 1)].tolist()


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = {bits: seen(bits) for bits in (8, 16)}
for bits, (reds, right) in found.items():
    print(f"entries of {bits} bits: expected {right}, seen {reds}")
wide, (narrow, right) = found[16], found[8]
as_described = wide[0] == wide[1] and narrow[:2] == right[:2] and narrow[2] == 62 and narrow[3] == 58
sys.exit(None if as_described and not told else "this has changed")
PYTHON
