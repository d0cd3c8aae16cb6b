"""What ``cfcam-gpu slide`` does: slides by name, each explained into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ..explain.attempts import reason
from ..photographs import loading, models
from ..photographs.loading import Loaded
from ..photographs.options import Settings
from ..pipelines import explainers, ray_session, resuming
from ..pipelines.batches import BatchExplainer
from ..pipelines.found import Found
from ..results import saving
from .work import Asked, Work

#: What one slide may be to blame for: that it can't be read, or its folder is another job's.
FAILURES = (OSError, TypeError, ValueError, RuntimeError, MemoryError)
_NEEDED = ("pyarrow", "tifffile", "zarr")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for; see ``cfcam-gpu slide --help``."""

    slides: Sequence[Path]
    out: Path
    settings: Settings
    classes: Sequence[str] = ()
    mpp: float = 0.5
    slide_mpp: float | None = None
    tile: int | None = None
    overlap: float = 0.5
    batch_size: int = 32
    workers: int = 1
    kind: str = "ome-tiff"
    restart: bool = False
    ray: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What has become of a slide.

    Parameters
    ----------
    slide : Path
    folder : Path
        Of its results.
    error : str or None
        Why it has none.
    tiles, failed : int
        How many tiles there are, and how many of them have no map.
    before : int
        How many were done when this run began.
    names : sequence of str
        Of the classes that are explained.
    """

    slide: Path
    folder: Path
    error: str | None = None
    tiles: int = 0
    failed: int = 0
    before: int = 0
    names: Sequence[str] = ()


#: Hears of a slide, by its number, how many tiles are done, and how many there are.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Ready:
    """A job that was found sound. ``description`` is for people, ``trained`` says whether its maps mean something."""

    job: Job
    loaded: Loaded
    asked: Asked
    folders: Sequence[Path]
    description: str
    trained: bool

    def execute(self, progress: Progress) -> Iterator[Outcome]:
        """Explain each slide, and give out what has become of it.

        One that fails costs no other anything. What is done of it is kept, and the same job goes on from there.
        """
        if self.job.ray is None:
            explain = self.explainer()
            for number, (path, folder) in enumerate(zip(self.job.slides, self.folders)):
                yield self._guarded(path, folder, lambda: self._alone(number, path, folder, explain, progress))  # noqa: B023  # called at once
        else:
            with ray_session.connected(self.job.ray or None):
                yield from self._on_ray(progress)

    def explainer(self) -> BatchExplainer:
        """What explains tiles."""
        preparation = self.loaded.model.preparation
        return BatchExplainer(self.loaded.explain, prepare=preparation.normalize, dtype=torch.float32)

    def _guarded(self, path: Path, folder: Path, work: Callable[[], Outcome]) -> Outcome:
        try:
            return work()
        except FAILURES as error:
            return Outcome(path, folder, reason(error))

    def _alone(self, number: int, path: Path, folder: Path, explain: BatchExplainer, progress: Progress) -> Outcome:
        def explained(images: torch.Tensor, classes: Sequence[int | None]) -> list[Found]:
            return of_classes(explain, images.to(self.loaded.device), classes)

        with Work(path, folder, self.asked, explained) as work:
            progress(number, work.before, work.total)
            batches = work.batches()
            for batch, images in zip(batches, work.read(batches)):
                work.put(batch, explained(images, work.classes))
                progress(number, batch.stop, work.total)
            return self._outcome(work)

    def _outcome(self, work: Work) -> Outcome:
        failed = work.finish()
        names = [self.loaded.class_names[index] for index in work.classes]
        return Outcome(work.path, work.folder, None, work.total, failed, work.before, names)

    def _on_ray(self, progress: Progress) -> Iterator[Outcome]:
        from . import ray

        explain = self.explainer()

        def explained(images: torch.Tensor, classes: Sequence[int | None]) -> list[Found]:
            return of_classes(explain, images.to(self.loaded.device), classes)

        with ExitStack() as stack:
            works: dict[int, Work] = {}
            faults: dict[int, str] = {}
            for number, (path, folder) in enumerate(zip(self.job.slides, self.folders)):
                try:
                    works[number] = stack.enter_context(Work(path, folder, self.asked, explained))
                    progress(number, works[number].before, works[number].total)
                except FAILURES as error:
                    faults[number] = reason(error)
            options = vars(self.job.settings.absolute()) | {"dtype": "float32"}
            for number, batch, found in ray.explained(works, options):
                if number in faults:
                    continue
                try:
                    if isinstance(found, str):
                        raise RuntimeError(found)
                    works[number].put(batch, found)
                    progress(number, batch.stop, works[number].total)
                except FAILURES as error:
                    faults[number] = reason(error)
            for number, (path, folder) in enumerate(zip(self.job.slides, self.folders)):
                if number in faults:
                    yield Outcome(path, folder, faults[number])
                else:
                    yield self._guarded(path, folder, lambda: self._outcome(works[number]))  # noqa: B023  # called at once


def of_classes(explain: BatchExplainer, images: torch.Tensor, classes: Sequence[int | None]) -> list[Found]:
    """What is found of tiles of each class, on the host.

    Parameters
    ----------
    explain : BatchExplainer
    images : (B, 3, S, S) uint8 tensor
        On the model's device.
    classes : sequence of int or None
        None is the predicted class of each.
    """
    return [explain(images, [index] * len(images)).to_host() for index in classes]


def check(job: Job) -> Ready:
    """Find what is wrong with a job before any of it is done: the model is loaded, the slides are there.

    Raises
    ------
    ImportError, OSError, TypeError, ValueError, RuntimeError
        The message says why.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ModuleNotFoundError(f"{' and '.join(missing)} not installed; pip install 'cfcam-gpu[slides]'")
    if not 0 <= job.overlap < 1:
        raise ValueError(f"overlap: expected a share from 0 to less than 1; got {job.overlap}")
    for name, value in (("mpp", job.mpp), ("slide_mpp", job.slide_mpp)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name}: expected micrometres, a number above 0; got {value}")
    for path in job.slides:
        if path.is_dir():
            raise IsADirectoryError(f"slides: expected files; {path} is a folder: name its slides, {path}/*")
        if not path.exists():
            raise FileNotFoundError(f"slides: there is no {path}")
    if job.ray is not None:
        ray_session.prepare(job.ray or None)
    loading.check(job.settings)
    loaded = loading.load_explainer(job.settings)
    size = loaded.model.preparation.size
    if not isinstance(size, int):
        raise ValueError(f"model: expected one of images, as tiles are; {job.settings.model} takes volumes")
    classes = list(dict.fromkeys(_class(name, loaded.class_names) for name in job.classes))
    explainers.check(loaded.explain, loaded.device, classes or [0])  # whichever is chosen is named
    if job.tile is not None and job.tile < 16:
        raise ValueError(f"tile: expected 16 pixels at least; got {job.tile}")
    tile = job.tile or size
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inputs = loaded.model.preparation.normalize(noise.to(loaded.device))
    result = loaded.explain(inputs, [classes[0]] if classes else None)
    asked = Asked(
        mpp=job.mpp,
        slide_mpp=job.slide_mpp,
        tile=tile,
        overlap=job.overlap,
        classes=classes,
        batch_size=job.batch_size,
        workers=job.workers,
        size=size,
        kind=job.kind,
        model=explainers.facts(loaded.explain, result, loaded.device),
        example=resuming.example_of(result, noise, inputs),
        class_names=loaded.class_names,
        trained=loaded.model.trained,
        restart=job.restart,
    )
    lines = [
        f"{job.settings.model} on {loaded.device}, {loaded.engine} engine; {len(job.slides):,} "
        f"slide{'s' * (len(job.slides) != 1)}; tiles of {tile} pixels of {job.mpp:g} micrometres"
    ]
    if tile != size:
        seen = job.mpp * tile / size
        lines.append(f"  a tile is brought to the model's {size} pixels: it sees {seen:.3g} micrometres a pixel")
    lines += [f"  {layer.name}: {layer.reason}" for layer in loaded.layers]
    stems = saving.file_names(path.name.removesuffix(path.suffix).removesuffix(".ome") for path in job.slides)
    return Ready(
        job=replace(job, slides=[path.absolute() for path in job.slides]),
        loaded=loaded,
        asked=asked,
        folders=[job.out / stem for stem in stems],
        description="\n".join(lines),
        trained=loaded.model.trained,
    )


def _class(name: str, names: Sequence[str]) -> int:
    try:
        return models.class_index(name, names)
    except ValueError as error:
        # The argument has another name here.
        raise ValueError(f"class{str(error).removeprefix('target')}") from None
