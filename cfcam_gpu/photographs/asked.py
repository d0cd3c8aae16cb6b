"""What is asked of ``cfcam-gpu explain``, and what is known of photographs on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ..image_files.pictures import Picture
from ..image_files.volumes import Volume
from ..named_models import loading
from ..named_models.options import EXPORTED, Settings
from ..results.components import Component
from ..results.explanation import Explanation
from ..results.trust import Trust
from ..scans.dicom.asked import Asked
from ..scans.dicom.source import Source
from . import evidence_folders, expected
from .expected import Compared
from .result_files import earlier


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Parameters
    ----------
    paths : sequence of Path
        Photographs and folders of them.
    out : Path
        The folder for the results.
    settings : Settings
    targets : sequence of str
        Classes by index or name, each explained of each photograph; none is the predicted class of each.
    fuse : {"mean", "max"} or None
        As for :class:`cfcam_gpu.CAM`.
    batch_size : int
    overwrite : bool
    components : int or None
        How many groups of channels to show of each photograph.
    expected : str or None
        A class, by index or name, that is set against the predicted one.
    evidence : bool
        Whether a folder of evidence is written for each photograph.
    fresh : bool
        Where `out` is there already, take a folder of its name with a number behind it.
    dicom : Asked or None
        What is written in DICOM of images of DICOM; None for nothing.
    """

    paths: Sequence[Path]
    out: Path
    settings: Settings = field(default_factory=Settings)
    targets: Sequence[str] = ()
    fuse: str | None = None
    batch_size: int = 8
    overwrite: bool = False
    components: int | None = None
    expected: str | None = None
    evidence: bool = False
    fresh: bool = False
    dicom: Asked | None = field(default_factory=Asked)

    @property
    def results(self) -> list[Path]:
        """The folders that are not searched for photographs, as results are images, too."""
        return earlier(self.out) if self.fresh else [self.out]

    def check(self) -> None:
        """Refuse what does not go together, before a model is loaded.

        Raises
        ------
        FileNotFoundError, TypeError, ValueError
            The message says why.
        """
        if files := [path for path in self.paths if path.suffix.lower() in EXPORTED]:
            raise ValueError(
                f"photographs: expected images or folders; got {files[0]}, an exported file, which explains images by "
                f"--model {files[0]}"
            )
        loading.check(self.settings, fuse=self.fuse, components=self.components)
        if self.components and len(self.targets) > 1:
            raise ValueError(f"components: expected one target at most; got {', '.join(self.targets)}")
        if self.expected is not None:
            expected.check(self.settings.method, self.targets, exported=self.settings.file is not None)
        if self.evidence:
            evidence_folders.check(len(self.targets), self.settings.spatial_dims)


class Photograph(NamedTuple):
    """One that was read: where from, what each target's results are called, (3, H, W) uint8 pixels, and its pages.

    Of DICOM it has a ``source``, and of a volume, (C, D, H, W) float32, what is kept of it.
    """

    picture: Picture
    stems: Sequence[str]
    pixels: torch.Tensor
    pages: int
    source: Source | None
    volume: Volume | None = None


class Found(NamedTuple):
    """What is known of a batch: its explanation, and of each image its components and what was expected beside it."""

    result: Explanation
    components: list[list[Component]]
    compared: list[Compared | None]
    trust: Trust | None
