"""What ``cfcam-gpu slide`` does: slides by name, each explained into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ..deploy.loading import Deployed
from ..explain.attempts import reason
from ..explain.cam import CAM
from ..explain.cfcam import CFCAM
from ..explain.plan import engine_of
from ..image_files.photos import Preparation
from ..named_models import loading, models
from ..named_models.options import Settings
from ..pipelines import explainers, ray_session, resuming
from ..pipelines.batches import BatchExplainer
from ..pipelines.explainers import Explainer
from ..results import saving
from ..targets.names import class_index
from .classes import of_classes
from .work import Asked, Explains, Work

#: What one slide may be to blame for: that it can't be read, or its folder is another job's.
FAILURES = (OSError, TypeError, ValueError, RuntimeError, MemoryError)
KINDS = ("ome-tiff", "ome-zarr")
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
class By:
    """What explains tiles: a model by name, an exported file, or an explainer that the caller has.

    Parameters
    ----------
    name : str
        For people.
    explain : CFCAM, CAM or Deployed
    preparation : Preparation
    device : torch.device
    engine : str
        By which the maps are made.
    class_names : sequence of K str
    trained : bool
    """

    name: str
    explain: Explainer
    preparation: Preparation
    device: torch.device
    engine: str
    class_names: Sequence[str]
    trained: bool


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
    by: By
    asked: Asked
    folders: Sequence[Path]
    description: str
    trained: bool

    def execute(self, progress: Progress) -> Iterator[Outcome]:
        """Explain each slide, and give out what has become of it.

        One that fails costs no other anything. What is done of it is kept, and the same job goes on from there.
        """
        if self.job.ray is None:
            explained = self._explains()
            for number, (path, folder) in enumerate(zip(self.job.slides, self.folders)):
                yield self._guarded(path, folder, lambda: self._alone(number, path, folder, explained, progress))  # noqa: B023  # called at once
        else:
            with ray_session.connected(self.job.ray or None):
                yield from self._on_ray(progress)

    def explainer(self) -> BatchExplainer:
        """What explains tiles."""
        return BatchExplainer(self.by.explain, prepare=self.by.preparation.normalize, dtype=torch.float32)

    def _explains(self) -> Explains:
        """Tiles from the host explained, for :class:`cfcam_gpu.slides.work.Work`."""
        explain = self.explainer()
        return lambda images, classes: of_classes(explain, images.to(self.by.device), classes)

    def _guarded(self, path: Path, folder: Path, work: Callable[[], Outcome]) -> Outcome:
        try:
            return work()
        except FAILURES as error:
            return Outcome(path, folder, reason(error))

    def _alone(self, number: int, path: Path, folder: Path, explained: Explains, progress: Progress) -> Outcome:
        with Work(path, folder, self.asked, explained) as work:
            progress(number, work.before, work.total)
            batches = work.batches()
            for batch, images in zip(batches, work.read(batches)):
                work.put(batch, explained(images, work.classes))
                progress(number, batch.stop, work.total)
            return self._outcome(work)

    def _outcome(self, work: Work) -> Outcome:
        try:
            failed = work.finish()
        finally:
            work.rest()
        names = [self.by.class_names[index] for index in work.classes]
        return Outcome(work.path, work.folder, None, work.total, failed, work.before, names)

    def _on_ray(self, progress: Progress) -> Iterator[Outcome]:
        from . import ray

        explained = self._explains()
        with ExitStack() as stack:
            works: dict[int, Work] = {}
            faults: dict[int, str] = {}
            for number, (path, folder) in enumerate(zip(self.job.slides, self.folders)):
                try:
                    works[number] = stack.enter_context(Work(path, folder, self.asked, explained))
                    works[number].rest()  # the cluster reads
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


def named(settings: Settings) -> By:
    """What a name stands for; the model is loaded.

    Raises
    ------
    ImportError, OSError, TypeError, ValueError, RuntimeError
        The message says why.
    """
    loading.check(settings)
    loaded = loading.load_explainer(settings)
    model = loaded.model
    return By(
        settings.model,
        loaded.explain,
        model.preparation,
        loaded.device,
        loaded.engine,
        loaded.class_names,
        model.trained,
    )


def own(explain: Explainer, preparation: Preparation, class_names: Sequence[str] | None) -> By:
    """An explainer that the caller has, tried on a blank image.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        If it is none, can't explain one, or has another number of classes than there are names.
    """
    if not isinstance(explain, (CFCAM, CAM, Deployed)):
        raise TypeError(f"model: expected a name, or a CFCAM, CAM or Deployed; got {type(explain).__name__}")
    device = explainers.device_of(explain)
    blank = explain(preparation.normalize(preparation.blank(1).to(device)))
    logits = blank.logits
    if logits is None or logits.ndim != 2:
        raise ValueError("model: expected an explainer of a classifier, with logits (B, K)")
    own = blank.class_names or models.class_names(logits.shape[1])
    names = list(own if class_names is None else class_names)
    if len(names) != logits.shape[1]:
        raise ValueError(f"class_names: expected {logits.shape[1]}, one for each class; got {len(names)}")
    if isinstance(explain, Deployed):
        return By(explain.path.name, explain, preparation, device, explain.runtime, names, explain.description.trained)
    engine = "torch" if explain.engine is None else engine_of(explain.engine, blank, device)
    return By(type(explain.model).__name__, explain, preparation, device, engine, names, True)


def check(job: Job, by: By | None = None) -> Ready:
    """Find what is wrong with a job before any of it is done: the model is loaded, the slides are there.

    Parameters
    ----------
    job : Job
    by : By, optional
        What explains, whatever the job's settings say.

    Raises
    ------
    ImportError, OSError, TypeError, ValueError, RuntimeError
        The message says why.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ModuleNotFoundError(f"{' and '.join(missing)} not installed; pip install 'cfcam-gpu[slides]'")
    if not 0 <= job.overlap < 1:
        raise ValueError(f"overlap: expected a share from 0 to less than 1; got {job.overlap}")
    if job.kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {job.kind!r}")
    for name, count in (("batch_size", job.batch_size), ("workers", job.workers)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1; got {count}")
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
    by = by or named(job.settings)
    size = by.preparation.size
    if not isinstance(size, int):
        raise ValueError(f"model: expected one of square images, as tiles are; {by.name} takes {size}")
    if by.preparation.channels != 3:
        raise ValueError(
            f"model: expected one of colours, as tiles are; {by.name} takes {by.preparation.channels} channels"
        )
    classes = list(dict.fromkeys(_class(name, by.class_names) for name in job.classes))
    explainers.check(by.explain, by.device, classes or [0])  # whichever is chosen is named
    if job.tile is not None and job.tile < 16:
        raise ValueError(f"tile: expected 16 pixels at least; got {job.tile}")
    tile = job.tile or size
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inputs = by.preparation.normalize(noise.to(by.device))
    result = by.explain(inputs, [classes[0]] if classes else None)
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
        model=explainers.facts(by.explain, result, by.device),
        example=resuming.example_of(result, noise, inputs),
        class_names=by.class_names,
        trained=by.trained,
        restart=job.restart,
    )
    lines = [
        f"{by.name} on {by.device}, {by.engine} engine; {len(job.slides):,} "
        f"slide{'s' * (len(job.slides) != 1)}; tiles of {tile} pixels of {job.mpp:g} micrometres"
    ]
    if tile != size:
        seen = job.mpp * tile / size
        lines.append(f"  a tile is brought to the model's {size} pixels: it sees {seen:.3g} micrometres a pixel")
    lines += [f"  {layer.name}: {layer.reason}" for layer in result.layers]
    stems = saving.file_names(path.name.removesuffix(path.suffix).removesuffix(".ome") for path in job.slides)
    return Ready(
        job=replace(job, slides=[path.absolute() for path in job.slides]),
        by=by,
        asked=asked,
        folders=[job.out / stem for stem in stems],
        description="\n".join(lines),
        trained=by.trained,
    )


def _class(name: str, names: Sequence[str]) -> int:
    try:
        return class_index(name, names)
    except ValueError as error:
        # The argument has another name here.
        raise ValueError(f"class{str(error).removeprefix('target')}") from None
