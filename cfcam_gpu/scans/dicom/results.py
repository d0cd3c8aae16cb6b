"""Explanations as DICOM objects beside the images that they explain."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...results import durable, saving
from ...results.record import Record
from ..grid import Grid
from . import objects, patient, placing
from .about import About
from .asked import Asked
from .source import Source

if TYPE_CHECKING:
    from pydicom import Dataset

MAP, OVERLAY, SEGMENT, REPORT = "parametric_map", "secondary_capture", "segmentation", "report"
#: Of the files, behind a map's name.
SUFFIXES = {MAP: ".dcm", OVERLAY: ".overlay.dcm", SEGMENT: ".segment.dcm", REPORT: ".report.dcm"}


def kinds(asked: Asked) -> list[str]:
    """The keys of :data:`SUFFIXES` that are asked for."""
    wanted = {OVERLAY: asked.secondary_capture, SEGMENT: asked.segment_above is not None, REPORT: asked.report}
    return [MAP, *(kind for kind, is_wanted in wanted.items() if is_wanted)]


def suffixes(asked: Asked) -> list[str]:
    """Of the files that :func:`write` makes, behind the map's name."""
    return [SUFFIXES[kind] for kind in kinds(asked)]


def check_installed() -> None:
    """Refuse to promise DICOM where it can't be written.

    Raises
    ------
    ImportError
        If highdicom is not installed; the message says what to install.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError(f"writing DICOM needs highdicom: pip install 'cfcam-gpu[medical]' ({error})") from error


def write(
    values: NDArray[np.float32],
    grid: Grid,
    source: Source,
    about: About,
    folder: Path,
    stem: str,
    *,
    asked: Asked,
    overlay: NDArray[np.uint8] | None = None,
    number: int = 1,
    when: datetime | None = None,
) -> list[Path]:
    """Write what is asked for of one map.

    Parameters
    ----------
    values : (H, W) or (D, H, W) float32 array in [0, 1]
    grid : Grid
        Where they lie, in the source's space: see :func:`cfcam_gpu.scans.dicom.placing.pixel_grid`.
    source : Source
        What was explained.
    about : About
    folder : Path
    stem : str
        Of the files' names.
    asked : Asked
    overlay : (H, W, 3) uint8 array, optional
        For the Secondary Capture.
    number : int
        Of the map among those of its series, from 1.
    when : datetime, optional
        What dates and UIDs are made of; now otherwise.

    Returns
    -------
    list of Path
        The files, each whole or not there.

    Raises
    ------
    ImportError
        If highdicom is not installed.
    ValueError
        If the source lacks a UID, or the map can't be laid into its space.
    OSError
        If a file can't be written.
    """
    check_installed()
    patient.check(source)
    volume = values if values.ndim == 3 else values[None]
    laid, where = placing.laid(volume, grid, source)
    work = objects.Work(
        values=np.ascontiguousarray(laid, np.float32),
        grid=where,
        source=source,
        about=about,
        asked=asked,
        number=number,
        when=when or datetime.now(),
    )
    made: list[tuple[str, Dataset]] = [(MAP, objects.parametric_map(work))]
    if asked.secondary_capture:
        assert overlay is not None
        made.append((OVERLAY, objects.secondary_capture(work, overlay)))
    if asked.segment_above is not None:
        made.append((SEGMENT, objects.segmentation(work)))
    if asked.report:
        from .reporting import report

        made.append((REPORT, report(work, [one for _, one in made])))
    files = []
    for kind, one in made:
        work.finish(one)
        file = io.BytesIO()
        one.save_as(file, enforce_file_format=True)
        files.append(folder / f"{stem}{SUFFIXES[kind]}")
        durable.write(files[-1], file.getbuffer(), alone=False)
    return files


def save_dicom(
    explanation: Record,
    folder: str | os.PathLike[str],
    sources: Sequence[Source],
    *,
    model: str,
    grids: Sequence[Grid] | None = None,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    images: torch.Tensor | None = None,
    segment_above: float | None = None,
    report: bool = False,
    mark: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Write an explanation of images or volumes of DICOM as DICOM objects, which viewers lay over what was explained.

    ``<name>.dcm`` is a Parametric Map: the map as float32, with its place in the patient, what it is of, and which
    instances were explained. Where the source has no place in the patient (most X-rays, photographs), the map is
    resampled, linearly, onto the source's pixels; otherwise the values are those of the map.
    With several targets an image, ``<name>-<class index>`` names its objects. Patient and study are the source's.

    Parameters
    ----------
    explanation : Explanation
        Of B images or volumes.
    folder : str or path
        Made if it doesn't exist.
    sources : sequence of B Source
        What was read.
    model : str
        Its name, for people.
    grids : sequence of B Grid, optional
        Where the model's input lay, made from the sources' :func:`~cfcam_gpu.scans.pixel_grid` by the steps that the
        images took: ``within`` of a crop, ``resized``. Otherwise each input was its whole source, at any size.
    names : sequence of B str, optional
        Of the images; the sources' UIDs otherwise.
    class_names : sequence of K str, optional
        Of the model's classes.
    images : (B, C, H, W) tensor, optional
        Writes ``<name>.overlay.dcm`` too, a Secondary Capture of the overlay.
    segment_above : float, optional
        In [0, 1). Writes ``<name>.segment.dcm`` too, a binary Segmentation of where the map is above it.
    report : bool
        Writes ``<name>.report.dcm`` too, a report of TID 1500: the class, its probability, and how large the map is
        above `segment_above`, or 0.5.
    mark : bool
        Whether all of them say that they are not for diagnosis.
    overwrite : bool
        Whether files of the same names may be replaced.

    Returns
    -------
    list of Path
        The files. Each appears whole or not at all.

    Raises
    ------
    ImportError
        If highdicom is not installed.
    TypeError, ValueError
        If the arguments don't fit the explanation, or a source lacks what DICOM needs; the message names it.
    FileExistsError
        If a file is there already and `overwrite` is False; nothing is written then.
    OSError
        If a file can't be written.
    """
    check_installed()
    count, dims = len(explanation), len(explanation.size)
    if dims not in (2, 3):
        raise ValueError("explanation: expected one of images or volumes; got one of signals")
    if images is not None and dims == 3:
        raise ValueError("images: of volumes no Secondary Capture is written; leave them out")
    for argument, given in (("sources", sources), ("grids", grids), ("names", names)):
        if given is not None and len(given) != count:
            raise ValueError(f"{argument}: expected {count}, one for each image; got {len(given)}")
    for source in sources:
        patient.check(source)
    size = (1, *explanation.size) if dims == 2 else explanation.size
    depth, height, width = size
    if grids is None:
        grids = [placing.pixel_grid(source).resized((depth, height, width)) for source in sources]
    for grid in grids:
        if grid.shape != size:
            raise ValueError(f"grids: expected the shape {size}, as the maps; got {grid.shape}")
    asked = Asked(secondary_capture=images is not None, segment_above=segment_above, report=report, mark=mark)
    lines = saving.describe(explanation, class_names)
    per_image = len(lines) // count
    stems = saving.file_names(
        f"{name}-{t if (index := lines[b * per_image + t]['target']) is None else index}"
        if explanation.several
        else name
        for b, name in enumerate(names or [source.uid for source in sources])
        for t in range(per_image)
    )
    folder = Path(folder)
    saving.check_free([folder / f"{stem}{end}" for stem in stems for end in suffixes(asked)], overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    maps = explanation.maps.flatten(0, int(explanation.several)).cpu().numpy()
    overlays = (
        None if images is None else explanation.overlay(images).flatten(0, int(explanation.several)).cpu().numpy()
    )
    when, files = datetime.now(), []
    for i, (stem, line) in enumerate(zip(stems, lines)):
        files += write(
            maps[i],
            grids[i // per_image],
            sources[i // per_image],
            About.of(line, model),
            folder,
            stem,
            asked=asked,
            overlay=None if overlays is None else overlays[i],
            number=i + 1,
            when=when,
        )
    return files
