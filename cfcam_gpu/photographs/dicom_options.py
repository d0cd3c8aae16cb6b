"""What commands write in DICOM of images of DICOM, by options; importable without torch."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from ..scans.dicom.asked import Asked

DicomOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dicom/--no-dicom",
        help="Of DICOM, write NAME.dcm, too: the map as a Parametric Map, which a viewer lays over the image.",
    ),
]
SecondaryCaptureOption: TypeAlias = Annotated[
    bool, typer.Option("--secondary-capture", help="Of DICOM, write NAME.overlay.dcm, too: the overlay as a picture.")
]
SegmentOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--segment-above",
        metavar="THRESHOLD",
        help="Of DICOM, write NAME.segment.dcm, too: a Segmentation of where the map is above THRESHOLD, in [0, 1).",
        show_default="none",
    ),
]
ReportOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Of DICOM, write NAME.report.dcm, too: class, probability and area above THRESHOLD, or 0.5, as a "
        "structured report.",
    ),
]
MarkOption: TypeAlias = Annotated[
    bool, typer.Option("--mark/--no-mark", help="Whether results in DICOM say that they are not for diagnosis.")
]


def given(
    *, dicom: bool, secondary_capture: bool, segment_above: float | None, report: bool, mark: bool
) -> Asked | None:
    """What is asked for by a command's options; None for nothing.

    Raises
    ------
    ValueError
        If the threshold is out of range, or results are asked for beside ``--no-dicom``.
    """
    asked = Asked(secondary_capture=secondary_capture, segment_above=segment_above, report=report, mark=mark)
    if dicom:
        return asked
    if asked.more:
        raise ValueError(f"{', '.join(asked.more)}: expected without --no-dicom, as it is written in DICOM")
    return None
