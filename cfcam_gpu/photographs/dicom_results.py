"""Explanations of images of DICOM, written as DICOM by ``cfcam-gpu explain``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..image_files.formats import UnreadableError
from ..image_files.photos import Preparation
from ..image_files.pictures import Picture
from ..results.saving import Line
from ..scans.dicom import patient, placing, results
from ..scans.dicom.about import About
from ..scans.dicom.asked import Asked
from ..scans.dicom.source import Source
from ..scans.preparation import VolumePreparation


def check(asked: Asked | None, images: Sequence[Picture]) -> None:
    """Refuse what can't be written, before anything runs.

    Raises
    ------
    ImportError
        If there are images of DICOM, and highdicom is not installed.
    ValueError
        If more than Parametric Maps is asked for, and no image is of DICOM.
    """
    if asked is None:
        return
    if any(image.dicom for image in images):
        results.check_installed()
    elif asked.more:
        raise ValueError(f"{', '.join(asked.more)}: expected images of DICOM; got none")


def paths(asked: Asked | None, folder: Path, images: Sequence[Picture], stems: Sequence[Sequence[str]]) -> list[Path]:
    """The files that will be written."""
    if asked is None:
        return []
    named = [stem for image, own in zip(images, stems) if image.dicom for stem in own]
    return [folder / f"{stem}{suffix}" for stem in named for suffix in results.suffixes(asked)]


def check_source(asked: Asked | None, source: Source | None) -> None:
    """Refuse an image to which no result in DICOM can refer.

    Raises
    ------
    UnreadableError
        The message names the attribute that is missing.
    """
    if asked is None or source is None:
        return
    try:
        patient.check(source)
    except ValueError as error:
        raise UnreadableError(f"{error}; --no-dicom does without") from error


def write(
    asked: Asked | None,
    source: Source | None,
    preparation: Preparation | VolumePreparation,
    folder: Path,
    stem: str,
    values: NDArray[np.float32],
    overlay: NDArray[np.uint8],
    record: Line,
    *,
    model: str,
    number: int,
    when: datetime,
) -> Line:
    """Write one map, if it is of DICOM, and say which files there are.

    Parameters
    ----------
    asked : Asked or None
    source : Source or None
        What was explained; None where it was not of DICOM.
    preparation : Preparation or VolumePreparation
        How the model's input was made of it.
    folder : Path
    stem : str
    values : (H, W) or (D, H, W) float32 array
        The map.
    overlay : (H, W, 3) uint8 array
    record : dict
        What JSON says of the map.
    model : str
    number : int
        Of the map among those of the job, from 1.
    when : datetime
        When the job began.
    """
    if asked is None or source is None:
        return {}
    files = results.write(
        values,
        preparation.grid(placing.pixel_grid(source)),
        source,
        About.of(record, model),
        folder,
        stem,
        asked=asked,
        overlay=overlay,
        number=number,
        when=when,
    )
    return {kind: file.name for kind, file in zip(results.kinds(asked), files)}
