"""A model by name exported with its explanation, checked by photographs: what ``cfcam-gpu export`` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import torch

from .. import deploy
from ..deploy import Description, refusals, triton
from ..deploy.description import Runtime
from ..image_files import photos
from ..named_models import exported, loading
from ..named_models.models import Model
from ..named_models.options import Settings

#: How many photographs a file is checked by, at most.
CHECKED = 32


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Parameters
    ----------
    out : Path or None
        The file.
    triton : Path or None
        A model repository to write a model into; one of the two is needed.
    settings : Settings
        Of the method ``"cfcam"``, on the host.
    photographs : sequence of Path
        Photographs and folders of them that the file is checked by, the first :data:`CHECKED`; none are the samples.
    batch, target, classes, runtime, overwrite
        As for :func:`cfcam_gpu.deploy.export`.
    """

    out: Path | None
    triton: Path | None = None
    settings: Settings
    photographs: Sequence[Path] = ()
    batch: int | Literal["any"] = "any"
    target: Literal["predicted", "input"] = "predicted"
    classes: int | None = None
    runtime: Runtime | None = None
    overwrite: bool = False


class Written(NamedTuple):
    """What was written where, and, for people, what was taken that nobody said."""

    description: Description
    paths: list[Path]
    notes: tuple[str, ...]


def write(job: Job, untrained: Callable[[], None]) -> Written:
    """Load the model, and export it.

    Parameters
    ----------
    job : Job
    untrained : callable
        Called, before the work, where the model's weights are random.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layer, photographs or files can't be what is meant, or the file's maps are not the library's;
        the message says why.
    """
    places = [place for place in (job.out, job.triton) if place is not None]
    if not places:
        raise ValueError("out: expected a file, FILE.onnx or FILE.pt2, or a model repository by --triton; got neither")
    if job.out is not None:
        refusals.runtime_of(job.out, job.runtime)
        refusals.check_place(job.out, overwrite=job.overwrite)
    refusals.check_options(job.batch, job.target, job.classes)
    name = re.sub(r"[^A-Za-z0-9_]+", "_", job.settings.model)
    if job.triton is not None:
        if job.runtime == "aoti" or (job.out is not None and job.out.suffix.lower() != ".onnx"):
            raise ValueError("triton: expected a file .onnx; a package of AOTInductor has no backend there")
        triton.check_place(job.triton, name, overwrite=job.overwrite)
    files = photos.find(job.photographs, skip=places[0], arrays=True) if job.photographs else photos.samples()
    loaded = loading.load_model(job.settings)
    if not loaded.model.trained:
        untrained()
    images = _read(files[:CHECKED], loaded.model, samples=not job.photographs)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx" if job.out is None else job.out
        description = deploy.export(
            loaded.explain,
            path,
            images,
            batch=job.batch,
            target=job.target,
            classes=job.classes,
            runtime=job.runtime,
            class_names=loaded.class_names,
            preparation=exported.described(loaded.model.preparation),
            name=job.settings.model,
            trained=loaded.model.trained,
            overwrite=job.overwrite,
        )
        paths = [] if job.out is None else [job.out]
        if job.triton is not None:
            paths.append(triton.write(path, job.triton, name=name, overwrite=job.overwrite))
    return Written(description, paths, loaded.nobody_said)


def _read(files: Sequence[Path], model: Model, *, samples: bool) -> torch.Tensor:
    """The photographs as the model wants them.

    Raises
    ------
    ValueError
        If one can't be read.
    """
    pixels = []
    for file in files:
        try:
            pixels.append(model.preparation.pixels(photos.first_page(file, takes=model.preparation).image))
        except photos.UnreadableError as error:
            if samples:
                raise ValueError(
                    "photographs: expected images of the model's own kind behind OUT, for the check; got none, and the "
                    f"samples are none of them: {error}"
                ) from error
            raise ValueError(f"photographs: {file}: {error}") from error
    return model.preparation.normalize(torch.stack(pixels))
