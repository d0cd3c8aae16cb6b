"""Volumes for models of volumes: found in files and folders, read, and how a model wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..core import axes
from ..scans import nifti, planes
from ..scans.dicom import marks, series
from ..scans.errors import UnreadableError, check_regular
from ..scans.grid import Grid
from ..scans.preparation import VolumePreparation
from ..scans.scan import Scan
from . import finding, formats
from .options import Settings
from .pictures import Picture

#: Attributes of a module that say how it wants its input, as timm's models have them.
_DESCRIPTIONS = ("pretrained_cfg", "default_cfg")
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


def preparation(module: nn.Module, settings: Settings) -> VolumePreparation:
    """How a model wants its volumes: as the options say, or else as it says itself.

    Parameters
    ----------
    module : torch.nn.Module
        May have a mapping ``pretrained_cfg``, with ``input_size``, (C, D, H, W), ``mean`` and ``std``, as timm's models
        have it, and further fields of :class:`cfcam_gpu.scans.VolumePreparation`.
    settings : Settings

    Raises
    ------
    ValueError
        If it is of images, nothing says how large its volumes are, or what says it is no preparation.
    """
    if (dims := axes.of_model(module)) not in (None, 3):
        raise ValueError(
            f"spatial_dims: the first convolution of {settings.model} works on {dims} axes; expected a model of "
            "volumes with --spatial-dims 3"
        )
    said = next((cfg for name in _DESCRIPTIONS if isinstance(cfg := getattr(module, name, None), Mapping)), {})
    fields = {name: said[name] for name in ("axcodes", "window", "percentiles", "mean", "std") if name in said}
    shape = said.get("input_size")
    if shape is not None and (not isinstance(shape, Sequence) or len(shape) != 4):
        raise ValueError(f"model: {settings.model} says input_size={shape!r}; expected C, D, H and W")
    size = settings.size or (shape and shape[1:])
    if size is None:
        raise ValueError(
            f"size: {settings.model} doesn't say how large its volumes are (pretrained_cfg with an input_size of C, D, "
            "H and W); give --size N or D,H,W"
        )
    channels = settings.channels or (shape[0] if shape else _first_channels(module))
    if settings.mean is not None or settings.std is not None:
        fields |= _asked(settings.mean, settings.std)
    return made(settings.model, {**fields, "size": size, "channels": channels}, settings.window)


def _asked(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> dict[str, tuple[float, ...]]:
    """Mean and std of the options."""
    if mean is None or std is None:
        raise ValueError(f"mean and std: expected both or neither; got {'std' if mean is None else 'mean'} alone")
    if max(map(abs, (*mean, *std))) > 1:
        raise ValueError(
            "mean and std: expected those of values in [0, 1], which a window makes of a volume's (--window); got "
            f"{mean} and {std}"
        )
    return {"mean": mean, "std": std}


def made(model: str, said: Mapping[str, Any], window: tuple[float, float] | None) -> VolumePreparation:
    """The preparation that a model, or an exported file, describes.

    Parameters
    ----------
    model : str
        For errors.
    said : mapping
        Its fields; lists for tuples.
    window : (float, float) or None
        Of the options, before its own.

    Raises
    ------
    ValueError
        If it is none.
    """
    plain = VolumePreparation((1, 1, 1))
    try:
        depth, height, width = map(int, said["size"])
        own = said.get("window")
        found = VolumePreparation(
            (depth, height, width),
            int(said.get("channels", 1)),
            str(said.get("axcodes", plain.axcodes)),
            own if own is None else _two(own),
            _two(said.get("percentiles", plain.percentiles)),
            tuple(map(float, said.get("mean", plain.mean))),
            tuple(map(float, said.get("std", plain.std))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"model: {model} says in another way how a volume becomes its input: {error}") from error
    return found if window is None else dataclasses.replace(found, window=window)


def _first_channels(module: nn.Module) -> int:
    """The channels of a model's input, by its first convolution."""
    return next((one.in_channels for one in module.modules() if isinstance(one, nn.Conv3d)), 1)


def _two(values: Iterable[Any]) -> tuple[float, float]:
    first, second = map(float, values)
    return first, second
