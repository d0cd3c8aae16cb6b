"""Scans of medicine: DICOM and NIfTI, read with where they lie in the patient, and explanations written beside them."""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from .dicom.placing import pixel_grid
    from .dicom.reading import read_dicom
    from .dicom.results import save_dicom
    from .dicom.series import find_series, read_volume
    from .dicom.source import Source
    from .grid import Grid
    from .metatensor import in_file_space
    from .nifti import read_nifti, save_nifti
    from .preparation import VolumePreparation
    from .scan import Scan

__all__ = [
    "Grid",
    "Scan",
    "Source",
    "VolumePreparation",
    "find_series",
    "in_file_space",
    "pixel_grid",
    "read_dicom",
    "read_nifti",
    "read_volume",
    "save_dicom",
    "save_nifti",
]

_HOMES = {
    "Grid": "grid",
    "Scan": "scan",
    "Source": "dicom.source",
    "pixel_grid": "dicom.placing",
    "read_dicom": "dicom.reading",
    "read_volume": "dicom.series",
    "find_series": "dicom.series",
    "VolumePreparation": "preparation",
    "in_file_space": "metatensor",
    "read_nifti": "nifti",
    "save_dicom": "dicom.results",
    "save_nifti": "nifti",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
