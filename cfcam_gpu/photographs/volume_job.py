"""Volumes explained into files: what ``cfcam-gpu explain --spatial-dims 3`` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..image_files import photos, volumes
from ..image_files.pictures import Picture
from ..results import durable, saving
from ..results.explanation import Explanation
from ..scans.dicom.source import Source
from ..scans.errors import UnreadableError
from ..scans.nifti import check_installed, save_nifti
from ..scans.preparation import VolumePreparation
from . import dicom_results
from .asked import Job, Photograph
from .job import Run

#: Of a map in the space of its volume.
SUFFIX = ".map.nii.gz"


class VolumeRun(Run):
    """A job of volumes that was found sound, ready to go."""

    noun: ClassVar[str] = "volume"
    suffixes: ClassVar[tuple[str, ...]] = (SUFFIX,)

    @classmethod
    def find(cls, job: Job, passed_over: Counter[str]) -> list[Picture]:
        """The volumes of files and folders; see :func:`cfcam_gpu.image_files.volumes.of`.

        Raises
        ------
        ModuleNotFoundError
            If nibabel is not installed, by which the map of every volume is written.
        """
        check_installed()
        return volumes.of(photos.find(job.paths, skip=job.results, passed_over=passed_over, search=volumes.Search))

    def _read(self, picture: Picture, stems: Sequence[str]) -> Photograph | None:
        takes = self.model.takes
        assert isinstance(takes, VolumePreparation)  # three spatial axes were asked for
        try:
            scan = volumes.read(picture.series or (picture.file,), takes.channels)
            source = scan.source if isinstance(scan.source, Source) else None
            dicom_results.check_source(self.job.dicom, source)
            return Photograph(picture, stems, takes.pixels(scan), 1, source, volumes.Volume.of(scan, takes))
        except UnreadableError as error:
            self.failed.append((picture.name, str(error)))
        except MemoryError:
            self.failed.append((picture.name, "not enough memory to read it"))
        return None

    def _save(
        self, result: Explanation, batch: Sequence[Photograph], each: Sequence[tuple[Photograph, str]]
    ) -> tuple[list[saving.Line], list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]:
        maps = result.maps.flatten(0, int(result.several)).cpu().numpy()
        stems = [stem for _, stem in each]
        found = saving.write(result, self.job.out, stems, overlays=None, class_names=self.class_names)
        drawn = []
        for (photograph, stem), values, record in zip(each, maps, found):
            volume = photograph.volume
            assert volume is not None  # _read gives each one
            files = {"overlay": f"{stem}.png", "volume": f"{stem}{SUFFIX}"}
            save_nifti(values, self.job.out / files["volume"], like=volume.scan, grid=volume.on, last=False)
            seen = volume.draw(values)
            with durable.replacing(self.job.out / files["overlay"], last=False) as file:
                seen.overlay.save(file, format="PNG")
            record |= files | {
                "peak": None if record["empty"] else list(seen.place),
                "affine": volume.on.affine.tolist(),
            }
            drawn.append((np.asarray(seen.plain), np.asarray(seen.overlay)))
        return found, drawn

    def _coloured(self, values: torch.Tensor, photograph: Photograph) -> NDArray[np.uint8]:
        assert photograph.volume is not None
        return np.asarray(photograph.volume.draw(values.cpu().numpy()).overlay)
