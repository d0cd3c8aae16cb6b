"""What ``cfcam-gpu run`` does: a model and a SOURCE by name, explained into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import models, runner
from ..explainer import CFCAM
from .bulk import Summary, require, run
from .sources import Photographs


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for; see ``cfcam-gpu run --help``."""

    source: str
    out: Path
    model: str
    weights: Path | None
    layers: Sequence[str]
    target: str | None
    engine: str
    preset: str
    batch_size: int
    shard_size: int | None
    workers: int
    dtype: str
    overlays: str | None
    restart: bool
    device: str


@dataclass(frozen=True)
class Ready:
    """A job that was found sound. ``description`` is for people, ``trained`` says whether its maps mean something."""

    job: Job
    explainer: CFCAM
    photographs: Photographs
    class_names: Sequence[str]
    target: int | str | None
    description: str
    trained: bool

    def execute(self, progress: Callable[[int, int | None], None]) -> Summary:
        """Do it. See :func:`cfcam_gpu.pipelines.run`."""
        return run(
            self.explainer,
            self.photographs,
            self.job.out,
            target=self.target,
            batch_size=self.job.batch_size,
            shard_size=self.job.shard_size,
            dtype=self.job.dtype,
            overlays=self.job.overlays,
            class_names=self.class_names,
            restart=self.job.restart,
            progress=progress,
        )


def check(job: Job) -> Ready:
    """Find what is wrong with a job before any of it is done: the model is loaded, and SOURCE listed.

    Raises
    ------
    ImportError, OSError, TypeError, ValueError, RuntimeError
        The message says why.
    """
    require()
    make = runner.cfcam(job.layers, job.preset)
    loaded = runner.load(job.model, job.weights, make, engine=job.engine, device=job.device)
    target: int | str | None = job.target
    if target is not None and target != "predicted":
        target = models.class_index(str(target), loaded.class_names)
    photographs = Photographs(
        job.source, loaded.model.preparation, class_names=loaded.class_names, workers=job.workers, skip=job.out
    )
    lines = [f"{job.model} on {loaded.device}, {loaded.engine} engine; {len(photographs):,} images in {job.source}"]
    lines += [f"  {layer.name}: {layer.reason}" for layer in loaded.layers]
    return Ready(
        job=job,
        explainer=loaded.explain,
        photographs=photographs,
        class_names=loaded.class_names,
        target=target,
        description="\n".join(lines),
        trained=loaded.model.trained,
    )
