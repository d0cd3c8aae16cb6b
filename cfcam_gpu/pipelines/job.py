"""What ``cfcam-gpu run`` does: a model and a SOURCE by name, explained into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..named_models import loading
from ..named_models.options import Settings
from ..scans.dicom import results as dicom
from ..sources.photographs import Batch, Photographs
from ..targets.names import class_index
from . import ray_session, resuming
from .bulk import Summary, require, run
from .explainers import Explainer
from .found import Found
from .in_dicom import Written
from .in_dicom import check as check_dicom
from .in_dicom import write as write_dicom


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for; see ``cfcam-gpu run --help``."""

    source: str
    out: Path
    settings: Settings
    target: str | None
    batch_size: int
    shard_size: int | None
    workers: int
    dtype: str
    overlays: str | None
    components: int | None
    restart: bool
    append: bool
    ray: str | None
    image_column: str | None
    target_column: str | None
    dicom: bool = False
    mark: bool = True


@dataclass(frozen=True)
class Ready:
    """A job that was found sound. ``description`` is for people, ``trained`` says whether its maps mean something."""

    job: Job
    explainer: Explainer
    photographs: Photographs
    class_names: Sequence[str]
    target: int | str | None
    description: str
    trained: bool
    layers: tuple[str, ...] = ()

    def write_dicom(self) -> Written:
        """Write the maps of images of DICOM as Parametric Maps. See :func:`cfcam_gpu.pipelines.in_dicom.write`.

        Raises
        ------
        OSError
            If a file can't be written.
        """
        job, settings = self.job, self.job.settings
        names = resuming.order(job.out)
        return write_dicom(
            job.out,
            self.photographs if names is None else self.photographs.ordered(names),
            model=settings.model if settings.file is None else settings.file.name,
            method=settings.method,
            layers=self.layers,
            mark=job.mark,
        )

    def execute(self, progress: Callable[[int, int | None], None]) -> Summary:
        """Do it. See :func:`cfcam_gpu.pipelines.run`."""
        if self.job.ray is None:
            return self._run(progress, None)
        from . import ray

        job, settings = self.job, self.job.settings
        # The actors work in other folders.
        options = vars(settings.absolute()) | {
            "dtype": job.dtype,
            "overlay": job.overlays is not None,
            "components": job.components,
        }
        with ray_session.connected(job.ray or None):
            how = partial(
                ray.explained, self.photographs, batch_size=job.batch_size, target=self.target, options=options
            )
            return self._run(progress, how)

    def _run(
        self,
        progress: Callable[[int, int | None], None],
        explained: Callable[[Sequence[int]], Iterable[tuple[Found, Batch]]] | None,
    ) -> Summary:
        return run(
            self.explainer,
            self.photographs,
            self.job.out,
            target=self.target,
            batch_size=self.job.batch_size,
            shard_size=self.job.shard_size,
            dtype=self.job.dtype,
            overlays=self.job.overlays,
            components=self.job.components,
            class_names=self.class_names,
            spatial_dims=self.job.settings.spatial_dims,
            restart=self.job.restart,
            append=self.job.append,
            progress=progress,
            explained=explained,
        )


def check(job: Job) -> Ready:
    """Find what is wrong with a job before any of it is done: the model is loaded, and SOURCE listed.

    Raises
    ------
    ImportError, OSError, TypeError, ValueError, RuntimeError
        The message says why.
    """
    require()
    if job.dicom:
        dicom.check_installed()
        if not job.restart:
            check_dicom(job.out, mark=job.mark)
    if job.ray is not None:
        ray_session.prepare(job.ray or None)
    loading.check(job.settings, components=job.components)
    loaded = loading.load_explainer(job.settings)
    target: int | str | None = job.target
    if target is not None and target != "predicted":
        target = class_index(str(target), loaded.class_names)
    photographs = Photographs(
        job.source,
        loaded.model.takes,
        class_names=loaded.class_names,
        workers=job.workers,
        skip=job.out,
        image_column=job.image_column,
        target_column=job.target_column,
        own_targets=target is None,
    )
    lines = [
        f"{job.settings.model} on {loaded.device}, {loaded.engine} engine; {len(photographs):,} images in {job.source}"
    ]
    lines += [f"  {layer.name}: {layer.reason}" for layer in loaded.layers]
    lines += [*loaded.nobody_said, *photographs.notes]
    return Ready(
        job=job,
        explainer=loaded.explain,
        photographs=photographs,
        class_names=loaded.class_names,
        target=target,
        description="\n".join(lines),
        trained=loaded.model.trained,
        layers=tuple(layer.name for layer in loaded.layers),
    )
