"""Volumes: found in files and folders, and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..scans import nifti, planes
from ..scans.dicom import marks, series
from ..scans.errors import UnreadableError, check_regular
from ..scans.grid import Grid
from ..scans.preparation import VolumePreparation
from ..scans.scan import Scan
from . import finding, formats
from .pictures import Picture

_SUFFIXES = frozenset((*nifti.SUFFIXES, *marks.SUFFIXES))


class Volume(NamedTuple):
    """What is kept of a volume that was read until its map is there.

    Parameters
    ----------
    scan : Scan
        Without its values.
    shades : (D, H, W) uint8 array
        It, as it is to be seen.
    on : Grid
        Where the model's input lies, and so its map.
    """

    scan: Scan
    shades: NDArray[np.uint8]
    on: Grid

    @classmethod
    def of(cls, scan: Scan, preparation: VolumePreparation) -> Volume:
        """That of a volume, and of what makes the model's input of it.

        Raises
        ------
        UnreadableError
            If it has not one finite value.
        """
        without = dataclasses.replace(scan, values=np.empty(0, np.float32))
        return cls(without, preparation.shades(scan), preparation.grid(scan.grid))

    def draw(self, values: NDArray[np.float32]) -> planes.Pictures:
        """Its planes through the peak of a map."""
        source = self.scan.source
        placed = source.placed if isinstance(source, nifti.NiftiSource) else source.grid is not None
        return planes.draw(self.shades, self.scan.grid, values, self.on, placed=placed)


class Search(finding.Search):
    """The files of volumes in one folder and its subfolders: NIfTI by its suffixes, and DICOM."""

    what = "volumes"
    suffixes = _SUFFIXES

    def is_one(self, path: Path, suffix: str) -> bool:
        """Whether a file is searched for."""
        return suffix in _SUFFIXES or (suffix == "" and finding.begins_as(path, (formats.DICOM,)))


def of(files: Sequence[Path]) -> list[Picture]:
    """The volumes of files, in their order: one each, or of DICOM one for each series that lies in a folder.

    A multi-frame file is a volume by itself. What can't be read is one all the same: whoever reads it says why.

    Raises
    ------
    ModuleNotFoundError
        If what reads them is not installed.
    """
    found: dict[Path, Picture] = {}
    others: dict[Path, list[Path]] = {}
    for file in files:
        if is_nifti(file.name):
            nifti.check_installed()
            found[file] = Picture(file, str(file), stem(file))
        else:
            others.setdefault(file.parent, []).append(file)
    for inside in others.values():
        for uid, slices in series.find_series(inside).items():
            volume = Picture(slices[0], uid or "unnamed", uid, dicom=True, series=tuple(slices))
            found |= dict.fromkeys(slices, volume)
    each = [found.get(file, Picture(file, str(file), file.stem)) for file in files]
    return list(dict.fromkeys(each))


def is_nifti(name: str) -> bool:
    """Whether a file is NIfTI by its name."""
    return name.lower().endswith(nifti.SUFFIXES)


def stem(file: Path) -> str:
    """A file's name without its suffix, ``.nii.gz`` for one."""
    suffix = finding.suffix_of(file)
    return file.name[: len(file.name) - len(suffix)] if suffix in _SUFFIXES else file.stem


def read(files: Sequence[Path] | IO[bytes], channels: int) -> Scan:
    """A volume of NIfTI or DICOM.

    Parameters
    ----------
    files : sequence of Path, or a binary file
        One, or those of a series of DICOM.
    channels : int
        That it is to have.

    Raises
    ------
    UnreadableError
        If it is neither, damaged, or can't be a volume; the message says why.
    """
    try:
        if isinstance(files, Sequence):
            check_regular(files[0])
            with files[0].open("rb") as file:
                head = file.read(formats.HEAD)
        else:
            files.seek(0)
            head = files.read(formats.HEAD)
        if marks.begins(head):
            return series.read_volume(files, max_voxels=nifti.MAX_VOXELS)
        if isinstance(files, Sequence) and finding.suffix_of(files[0]) in marks.SUFFIXES:
            raise UnreadableError("not a file of DICOM, or damaged" if head else "not a file of DICOM: it is empty")
        return nifti.read_nifti(files[0] if isinstance(files, Sequence) else files, channels=channels)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
