"""Whole slides for those who call Python: what ``cfcam-gpu slide`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..image_files.photos import Preparation
from ..named_models.options import Settings
from ..pipelines.command import default_workers
from ..pipelines.explainers import Explainer
from . import job
from .job import Outcome, Progress


def explain(
    model: str | Explainer,
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    classes: Sequence[int | str] = (),
    preparation: Preparation | None = None,
    class_names: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    layers: Sequence[str] = (),
    preset: str = "default",
    engine: str = "auto",
    device: str = "auto",
    method: str = "cfcam",
    augment: Sequence[str] = (),
    smooth: int = 0,
    libragrad: bool | None = None,
    mpp: float = 0.5,
    slide_mpp: float | None = None,
    tile: int | None = None,
    overlap: float = 0.5,
    kind: str = "ome-tiff",
    batch_size: int = 32,
    workers: int | None = None,
    restart: bool = False,
    ray: str | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Explain whole slides into folders; called again after whatever stopped it, it goes on where it was.

    Parameters
    ----------
    model : str, CFCAM, CAM or Deployed
        A model's name or an exported file's, as for ``cfcam-gpu slide --model``; or an explainer of your own, with its
        `preparation`.
    slides : path or sequence of path
    out : path
        Of each slide there is a folder in it, with what docs/slides.md tells of.
    classes : sequence of int or str
        Indices or names; each has a map of its own. Default: of each slide the class that is predicted most often on
        its tissue.
    preparation : Preparation
        How an explainer of your own wants its tiles: that of a :class:`cfcam_gpu.photographs.Model`, say. Of a name it
        is known.
    class_names : sequence of K str, optional
        Of an explainer of your own. Default: its own; where it has none, ImageNet's of 1,000 classes, else
        ``"class 0"`` and so on.
    weights, layers, preset, engine, device, method, augment, smooth, libragrad
        Of a name, as for :class:`cfcam_gpu.pipelines.ray.Explain`; an explainer of your own has them.
    mpp : float
        Micrometres along a pixel of the tiles; 0.5 is a magnification of 20.
    slide_mpp : float, optional
        Along one of the slides' finest pixels. Default: what their files say.
    tile : int, optional
        Pixels along the side of a tile. Default: the model's input.
    overlap : float
        Share of a tile's side that the next one sees, too: from 0 to less than 1.
    kind : {"ome-tiff", "ome-zarr"}
        Of the maps' files.
    batch_size : int
        Tiles in one forward.
    workers : int, optional
        Processes that read tiles. Default: half of the cores, up to 16.
    restart : bool
        Drop what a job left in the slides' folders, and begin anew.
    ray : str, optional
        Explain on the Ray cluster at this address, host:port; ``""`` is that of ``RAY_ADDRESS``, or a new one of this
        machine. With a model's name alone.
    progress : callable, optional
        Called with (number of the slide, tiles done, tiles in all).

    Returns
    -------
    list of Outcome
        Of each slide, in their order. One that can't be read or explained has an `error`, and costs no other anything.

    Raises
    ------
    ImportError
        If a package of the extra ``slides`` is not installed.
    OSError, RuntimeError, TypeError, ValueError
        If an argument can't be what is meant, before anything is explained; the message says why.

    Examples
    --------
    >>> outcomes = explain(  # doctest: +SKIP
    ...     "timm:resnet50", "biopsy.svs", "out", weights="tumour.safetensors", classes=[1]
    ... )
    >>> outcomes[0].folder / "map-1.ome.tif"  # doctest: +SKIP
    """
    settings = Settings(
        model=model if isinstance(model, str) else "",
        weights=None if weights is None else Path(weights),
        layers=tuple(layers),
        preset=preset,
        engine=engine,
        device=device,
        method=method,
        augment=tuple(augment),
        smooth=smooth,
        libragrad=libragrad,
    )
    paths = [slides] if isinstance(slides, (str, os.PathLike)) else slides
    asked = job.Job(
        slides=[Path(path) for path in paths],
        out=Path(out),
        settings=settings,
        classes=[str(index) for index in classes],
        mpp=mpp,
        slide_mpp=slide_mpp,
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        workers=max(1, default_workers()) if workers is None else workers,
        kind=kind,
        restart=restart,
        ray=ray,
    )
    if isinstance(model, str):
        for name, value in (("preparation", preparation), ("class_names", class_names)):
            if value is not None:
                raise ValueError(f"{name}: expected it with an explainer of your own; {model!r} has its own")
        ready = job.check(asked)
    else:
        fixed, plain = vars(settings), vars(Settings(model=""))
        if given := [name for name in fixed if fixed[name] != plain[name]]:
            raise ValueError(f"{given[0]}: expected it with a model's name; got an explainer, which has its own")
        if preparation is None:
            raise TypeError("preparation: expected a photographs.Preparation with an explainer of your own; got None")
        if ray is not None:
            raise ValueError("ray: expected a model by name, which the cluster's machines load; got an explainer")
        ready = job.check(asked, job.own(model, preparation, class_names))
    return list(ready.execute(progress or (lambda number, done, total: None)))
