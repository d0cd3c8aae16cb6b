"""Explanations as a report of DICOM: numbers and classes in codes, which point to the images of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import patient
from .asked import LONG, MANUFACTURER, SCHEME, shortened
from .objects import Work

if TYPE_CHECKING:
    from highdicom.sr import Measurement, QualitativeEvaluation
    from pydicom import Dataset


def report(work: Work, made: list[Dataset]) -> Dataset:
    """A measurement report (TID 1500): the class, its probability, and how large the map is above the threshold.

    Parameters
    ----------
    work : Work
    made : list of Dataset
        The objects of the same map that are written with it, which the report points to; its Parametric Map first.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import SecondaryCaptureImageStorage

    about = work.about
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=patient.uid(MANUFACTURER, about.version, about.model),
                name=shortened(f"{about.title} of {about.model}", LONG),
                manufacturer_name=MANUFACTURER,
                model_name=shortened(about.model, LONG),
            ),
        )
    )
    explained = patient.evidence(work.source, work.stand_in)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=patient.uid(made[0].SOPInstanceUID, "tracking"), identifier=work.asked.said(about.sentence, 1024)
        ),
        finding_type=codes.DCM.VisualExplanation,
        method=about.code,
        algorithm_id=sr.AlgorithmIdentification(
            name=shortened(f"{about.title} of {about.model}", LONG),
            version=about.version,
            parameters=[*(f"layer={name}" for name in about.layers), f"measured above={work.threshold:g}"],
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=MANUFACTURER,
        ),
        measurements=_measurements(work, made),
        qualitative_evaluations=_evaluations(work),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                one.SOPClassUID,
                one.SOPInstanceUID,
                referenced_frame_numbers=None if work.source.frame is None else [work.source.frame + 1],
            )
            for one in explained
        ],
    )
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.DCM.VisualExplanation,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[one for one in made if one.SOPClassUID == SecondaryCaptureImageStorage] or None,
    )
    heading = work.heading("report")
    return sr.ComprehensiveSR(
        evidence=[*explained, *made],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        contributing_equipment=work.equipment,
        **heading,
    )


def _measurements(work: Work, made: list[Dataset]) -> list[Measurement]:
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import SecondaryCaptureImageStorage

    found = []
    if work.about.probability is not None:
        found.append(sr.Measurement(name=codes.DCM.Probability, value=work.about.probability, unit=codes.UCUM.NoUnits))
    threshold = work.threshold
    voxels = int(np.count_nonzero(work.values > threshold))
    sides = patient.spacing(work.source, work.grid)
    deep = work.grid.shape[0] > 1
    if sides is None:
        name, size, unit = codes.SCT.Area, float(voxels), Code("{pixels}", "UCUM", "pixels")
    elif deep:
        name, size, unit = codes.SCT.Volume, voxels * work.grid.voxel, codes.UCUM.CubicMillimeter
    else:
        name, size, unit = codes.SCT.Area, voxels * sides[1] * sides[2], codes.UCUM.SquareMillimeter
    # The library of highdicom's report takes no Parametric Map; what was measured is pointed to by the measurement.
    measured = [one for one in made if one.SOPClassUID != SecondaryCaptureImageStorage]
    images = [sr.SourceImageForMeasurement(one.SOPClassUID, one.SOPInstanceUID) for one in measured]
    found.append(sr.Measurement(name=name, value=size, unit=unit, referenced_images=images))
    return found


def _evaluations(work: Work) -> list[QualitativeEvaluation]:
    from highdicom import sr
    from pydicom.sr.coding import Code

    about = work.about
    if about.class_name is None and about.target is None:
        return []
    # Of codes that no standard has, so that the meaning is what a reader shows.
    value = Code("target" if about.target is None else str(about.target), SCHEME, shortened(about.what, LONG))
    return [sr.QualitativeEvaluation(name=Code("class", SCHEME, "Explained class"), value=value)]
