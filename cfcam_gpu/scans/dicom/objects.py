"""A map as an image object of DICOM: Parametric Map, Segmentation and Secondary Capture."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..grid import Grid
from . import patient, placing
from .about import About
from .asked import LONG, MANUFACTURER, MARK, SCHEME, SHORT, Asked, shortened
from .source import Source
from .values import allowed

if TYPE_CHECKING:
    from highdicom import ContributingEquipment
    from pydicom import Dataset

#: Series of one study are told apart by these, behind the source's number; each has its kind of object.
NUMBERS = {"map": 1, "overlay": 2, "segment": 3, "report": 4}
#: Series numbers beyond which some viewers' integers end, with the two digits behind.
_MOST = 2**31 // 100 - 1
#: A report without a Segmentation measures what is above half of the maximum.
HALF = 0.5
_INK, _PAPER = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """One map on its way into DICOM.

    Parameters
    ----------
    values : (D, H, W) float32 array
        As they are written.
    grid : Grid
        Of `values`.
    source : Source
    about : About
    asked : Asked
    number : int
        Of the map among those of its series, from 1.
    when : datetime
        What the objects' dates and UIDs are made of: the same results at the same time are the same bytes.
    """

    values: NDArray[np.float32]
    grid: Grid
    source: Source
    about: About
    asked: Asked
    number: int
    when: datetime

    def heading(self, kind: str) -> dict[str, Any]:
        """What all objects begin with, as highdicom's arguments."""
        source, about = self.source, self.about
        series = patient.uid(
            source.headers[0].SeriesInstanceUID, kind, about.model, about.method, about.layers, self.when
        )
        before = allowed(source.headers[0], "SeriesNumber")
        before = int(before) if isinstance(before, int) and 0 < before < _MOST else 0
        return {
            "series_instance_uid": series,
            "series_number": 100 * before + NUMBERS[kind],
            "sop_instance_uid": patient.uid(series, source.uid, about.target, self.number, self.values.tobytes()),
            "instance_number": self.number,
            "manufacturer": MANUFACTURER,
            "series_description": self.asked.said(f"{about.title} of {about.model}"),
        }

    @cached_property
    def stand_in(self) -> Dataset:
        """See :func:`cfcam_gpu.scans.dicom.patient.stand_in`."""
        return patient.stand_in(self.source, self.grid)

    @property
    def threshold(self) -> float:
        """What of the map a report measures: the part above this."""
        return HALF if self.asked.segment_above is None else self.asked.segment_above

    @property
    def device(self) -> dict[str, Any]:
        """What made the objects, as arguments of those that name it."""
        name = shortened(self.about.model, LONG)
        return {
            "manufacturer_model_name": name,
            "software_versions": self.about.version,
            "device_serial_number": "none",
        }

    @property
    def equipment(self) -> list[ContributingEquipment]:
        """The explanation in words, where every object has a place for it."""
        import highdicom
        from pydicom.sr.codedict import codes

        return [
            highdicom.ContributingEquipment(
                MANUFACTURER,
                codes.DCM.ProcessingEquipment,
                manufacturer_model_name=shortened(self.about.model, LONG),
                software_versions=self.about.version,
                contribution_datetime=self.when,
                contribution_description=shortened(self.about.sentence, 1024),
            )
        ]

    def finish(self, written: Dataset) -> None:
        """Have references, dates and UIDs that depend on nothing but the work."""
        patient.name(written, self.source.headers[0])
        patient.dated(written, self.when)
        if "DimensionOrganizationSequence" in written:
            organization = patient.uid(written.SOPInstanceUID, "dimensions")
            for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
                item.DimensionOrganizationUID = organization


def parametric_map(work: Work) -> Dataset:
    """The map itself: float32, and what it is of in codes and words."""
    import highdicom
    from pydicom.sr.codedict import codes

    about = work.about
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=shortened(about.method, SHORT),
        lut_explanation=shortened(f"{about.title} of {about.what}, over its maximum", LONG),
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, max(1.0, float(work.values.max()))),  # a maximum may be rounded up
        slope=1.0,
        intercept=0.0,
        quantity_definition=about.code,
    )
    # DICOM has no other place in a map for what says which class of which model it is.
    words = (
        highdicom.sr.TextContentItem(name=name, value=value, relationship_type=None) for name, value in _words(about)
    )
    mapping.add_new("QuantityDefinitionSequence", "SQ", [*mapping.QuantityDefinitionSequence, *words])
    written = highdicom.pm.ParametricMap(
        pixel_array=work.values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[highdicom.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label=_label("MAP"),
        content_description=work.asked.said(f"{about.title} of {about.what}"),
        contributing_equipment=work.equipment,
        derivation=codes.DCM.VisualExplanation,
        **_derived(work, "map", space=True),
    )
    if patient.spacing(work.source, work.grid) is None:
        # Nothing may be measured in it.
        del written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    _refer(written, work, codes.DCM.VisualExplanation)
    written.Laterality = patient.laterality(work.source.headers[0])
    return written


def segmentation(work: Work) -> Dataset:
    """Where the map is above the threshold: one binary segment."""
    import highdicom
    from pydicom.sr.codedict import codes

    about, threshold = work.about, work.asked.segment_above
    assert threshold is not None
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=shortened(f"{about.what}: {about.title} above {threshold:g}", LONG),
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=codes.DCM.VisualExplanation,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=shortened(f"{about.title} of {about.model}", LONG),
            family=codes.DCM.ArtificialIntelligence,
            version=about.version,
            source=MANUFACTURER,
            parameters={"threshold": f"{threshold:g}"},
        ),
    )
    above: NDArray[np.uint8] = (work.values > threshold).astype(np.uint8)
    written = highdicom.seg.Segmentation(
        pixel_array=above,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        content_label=_label("SEGMENT"),
        content_description=work.asked.said(f"{about.title} of {about.what} above {threshold:g}"),
        contributing_equipment=work.equipment,
        omit_empty_frames=bool(above.any()),
        **_derived(work, "segment", space=work.grid.shape[0] > 1),
    )
    _refer(written, work, codes.DCM.SegmentationImageDerivation)
    return written


def secondary_capture(work: Work, overlay: NDArray[np.uint8]) -> Dataset:
    """The overlay (H, W, 3) as a picture, with the mark in it."""
    import highdicom

    source, header = work.stand_in, work.source.headers[0]
    heading = work.heading("overlay")
    orientation = _orientation(work.source)
    written: Dataset = highdicom.sc.SCImage(
        np.ascontiguousarray(marked(overlay) if work.asked.mark else overlay),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system=highdicom.CoordinateSystemNames.PATIENT,
        study_instance_uid=source.StudyInstanceUID,
        patient_id=source.PatientID,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        accession_number=source.AccessionNumber,
        study_id=source.StudyID,
        study_date=source.StudyDate,
        study_time=source.StudyTime,
        patient_orientation=orientation or ("L", "P"),
        specific_character_set=source.SpecificCharacterSet,
        contributing_equipment=work.equipment,
        **work.device,
        **heading,
    )
    if orientation is None:
        written.PatientOrientation = None  # unknown; highdicom wants one
    written.Laterality = patient.laterality(header)
    for keyword in patient.LOSSY:
        if keyword in source:
            setattr(written, keyword, source[keyword].value)
    written.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    written.DateOfSecondaryCapture = work.when.strftime("%Y%m%d")
    written.TimeOfSecondaryCapture = work.when.strftime("%H%M%S.%f")
    written.BurnedInAnnotation = "YES" if allowed(header, "BurnedInAnnotation") == "YES" else "NO"
    return written


def marked(overlay: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with a strip below that says it is not for diagnosis: nothing of the picture is hidden."""
    width = overlay.shape[1]
    font = _font(max(8, min(20, width // 10)))
    left, top, right, bottom = font.getbbox(MARK)
    strip = Image.new("RGB", (max(int(right - left) + 4, width), int(bottom - top) + 6), _PAPER)
    ImageDraw.Draw(strip).text((2 - left, 3 - top), MARK, _INK, font)
    wide = np.zeros((overlay.shape[0], strip.width, 3), np.uint8)
    wide[:, :width] = overlay
    return np.concatenate([wide, np.asarray(strip)])


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _derived(work: Work, kind: str, *, space: bool) -> dict[str, Any]:
    """What highdicom derives an image from, and where it lies; with `space` it lies somewhere in any case."""
    result = {"source_images": [work.stand_in], **work.heading(kind), **work.device}
    if placing.in_patient(work.source):
        return result | _planes(work.grid)
    if not space:
        return result
    # A Parametric Map must have a frame of reference, and so must planes that lie behind each other: one of their own,
    # which says that it shares its space with nothing else.
    image, grid = work.stand_in.copy(), patient.own_space(work.source, work.grid)
    patient.put(image, grid, patient.uid("frame of reference", work.source.uid))
    return result | {"source_images": [image], **_planes(grid)}


def _planes(grid: Grid) -> dict[str, Any]:
    measures, orientation, positions = placing.place(grid)
    return {"pixel_measures": measures, "plane_orientation": orientation, "plane_positions": positions}


def _refer(written: Dataset, work: Work, derivation: Any) -> None:
    """Have an image refer to what was explained, and to the frame of it."""
    import highdicom
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    if work.grid.shape[0] == 1:
        # highdicom makes up one of 1 mm.
        for measures in written.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence", []):
            if "SpacingBetweenSlices" in measures:
                del measures.SpacingBetweenSlices
    written.SourceImageSequence = patient.references(work.source)
    of_series: dict[str, list[Dataset]] = {}
    for header, item in zip(work.source.headers, patient.references(work.source, frames=False)):
        of_series.setdefault(str(header.SeriesInstanceUID), []).append(item)
    written.ReferencedSeriesSequence = []
    for series, items in of_series.items():
        one = Dataset()
        one.SeriesInstanceUID, one.ReferencedInstanceSequence = series, items
        written.ReferencedSeriesSequence.append(one)
    derived = Dataset()
    derived.DerivationDescription = shortened(work.about.sentence, 1024)
    derived.DerivationCodeSequence = [highdicom.sr.CodedConcept.from_code(derivation)]
    derived.SourceImageSequence = patient.references(work.source)
    for item in derived.SourceImageSequence:
        item.PurposeOfReferenceCodeSequence = [
            highdicom.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
        ]
        item.SpatialLocationsPreserved = "YES" if placing.same(work.grid, placing.pixel_grid(work.source)) else "NO"
    # Every frame comes of all of the volume: said once, or the file would grow with the square of its slices.
    frames, shared = written.PerFrameFunctionalGroupsSequence, written.SharedFunctionalGroupsSequence
    for frame in frames:
        frame.pop("DerivationImageSequence", None)
    (frames if work.grid.shape[0] == 1 else shared)[0].DerivationImageSequence = [derived]


def _words(about: About) -> list[tuple[Any, str]]:
    """Names and values of what is known."""
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    said = [
        (codes.DCM.AlgorithmName, f"{about.title} of {about.model}"),
        (codes.DCM.AlgorithmVersion, f"{MANUFACTURER} {about.version}"),
        (CodedConcept("class", SCHEME, "Explained class"), about.what),
    ]
    if about.target is not None:
        said.append((CodedConcept("class-index", SCHEME, "Index of the explained class"), str(about.target)))
    if about.layers:
        said.append((CodedConcept("layers", SCHEME, "Target layers"), ", ".join(about.layers)))
    return said


def _label(kind: str) -> str:
    # A code string (CS): capitals, digits, spaces and underscores.
    return f"CFCAM_{kind}"


def _orientation(source: Source) -> tuple[Any, ...] | None:
    """Where rows and columns of a slice's picture point to in the patient; None where that is not known."""
    import highdicom

    if source.grid is None or source.grid.shape[0] > 1:
        return None
    _, along_columns, along_rows = highdicom.spatial.get_closest_patient_orientation(
        placing.TO_LPS @ source.grid.affine
    )
    return along_rows, along_columns
