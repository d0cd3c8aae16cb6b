"""Explain a whole data set into a folder, and go on where it was stopped."""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..explain.attempts import attempt
from ..results import durable
from ..results.explanation import Explanation
from ..sources.photographs import Batch, Photographs
from ..targets.names import with_indices
from ..targets.request import check_range
from . import explainers, resuming, store
from .batches import BatchExplainer, Prepare, trial
from .explainers import Explainer
from .feeds import UNNAMED, Feed, Files, Stream
from .found import Found
from .lock import held
from .resuming import Job
from .store import Store
from .stream import ahead, batches_of, check_repeatable, targets_of
from .writer import Writer

#: Images in a shard, about.
SHARD = 256
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Summary:
    """What has become of a job.

    Parameters
    ----------
    folder : Path
        Has ``maps.zarr``, (N, H, W), and ``manifest.parquet``, N rows.
    images : int
        N.
    failed : int
        How many of them have an error instead of a map.
    before : int
        How many were done when this run began.
    """

    folder: Path
    images: int
    failed: int
    before: int


def run(
    explainer: Explainer,
    dataset: Photographs | Iterable[Any],
    out: str | os.PathLike[str],
    *,
    target: int | str | None = None,
    prepare: Prepare | None = None,
    batch_size: int = 32,
    shard_size: int | None = None,
    dtype: str = "float16",
    overlays: str | None = None,
    components: int | None = None,
    class_names: Sequence[str] | None = None,
    spatial_dims: int = 2,
    image_column: str | None = None,
    target_column: str | None = None,
    name_column: str | None = None,
    restart: bool = False,
    append: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    explained: Callable[[Sequence[int]], Iterable[tuple[Found, Batch]]] | None = None,
) -> Summary:
    """Explain every image of a data set; called again after whatever stopped it, it goes on where it was.

    Parameters
    ----------
    explainer : CFCAM, CAM or Deployed
        The last is an exported file, from :func:`cfcam_gpu.deploy.load`.
    dataset : Photographs, DataLoader or iterable
        :class:`Photographs` are read in worker processes. Anything else gives images (C, H, W) or batches (B, C, H, W)
        of one size, or tuples of these with a target each (an index, a name of `class_names`, or None) and, third, a
        name each, or dicts; the same in the same order every time. Of what is done already it is asked again, to see
        that.
    out : path
        A folder for ``maps.zarr`` ((N, H, W), NaN where an image has an error), ``manifest.parquet`` (a row for each
        image, see :data:`cfcam_gpu.pipelines.rows.COLUMNS`), ``overlays``, ``job.json``, what was asked, and
        ``example.safetensors``, what becomes of one image.
    target : None, int, str or "predicted"
        What to explain of every image, by index or name. None: the data set's own target where it gives one, else the
        predicted class.
    prepare : callable, optional
        Makes the model's input of images as they come, on the model's device. Default: what `dataset` knows for
        Photographs, nothing for others.
    batch_size : int
        Images in one forward.
    shard_size : int, optional
        Images that are written at once, a multiple of `batch_size`: what is lost by a kill is done again. Default:
        the least multiple from 256 on.
    dtype : {"float16", "float32"}
        Of the maps that are kept.
    overlays : {"jpg", "png"} or None
        Write the maps over their images, too.
    components : int, optional
        How many groups of channels to name of each image in the manifest's column ``components``.
    class_names : sequence of K str, optional
        None are the explainer's.
    spatial_dims : {1, 2, 3}
        Of the data set's images: 3 for volumes (C, D, H, W), 1 for signals (C, L).
    image_column, target_column, name_column : str, optional
        Keys of dicts. Default: the usual ones. :class:`Photographs` has arguments of its own for these.
    restart : bool
        Drop what a job left in `out`, and begin anew.
    append : bool
        Explain images that came behind those of the job, or new files of its SOURCE, into the same folder. What is done
        stays.
    progress : callable, optional
        Called with (images written, images in all or None where that isn't known), perhaps in another thread.
    explained : callable, optional
        Called with the indices of the first images of the batches that aren't done, of Photographs; what it gives is
        written, instead of what would be explained here: :func:`cfcam_gpu.pipelines.ray.explained`, say.

    Returns
    -------
    Summary

    Raises
    ------
    ChangedError
        If the data set, the model or what is asked is not what `out` was begun with; the message says what. Beside
        what was given, an image is explained and compared with what came of it at first: that shows whether `prepare`,
        or code, has changed.
    FileExistsError
        If `out` has results of no job, or another run is writing to it.
    ModuleNotFoundError
        If zarr or pyarrow is not installed.
    OSError
        If something can't be written: a full disk, say. What is done is kept.
    RuntimeError
        If the device's memory does not hold one image, or the device is out of order. What is done is kept.
    TypeError, ValueError
        If an argument can't be what is meant, or the model can't take images like the first.

    Notes
    -----
    An image that can't be read or explained has its row with the error; the other maps of its batch are, bit for bit,
    those of a batch of this size. Batches are the same wherever a job was stopped, so that its results are those of an
    undisturbed run, byte for byte, where the model gives the same for the same batch. Not so where a batch does not fit
    the device's memory: it is halved, and the maps may differ by rounding.
    """
    names = explainer.class_names if class_names is None else class_names
    by_name = isinstance(target, str) and target != "predicted"
    target = _target(target, names)
    if append and restart:
        raise ValueError("append: expected it without restart, which drops what there is to append to")
    shard_size = _check(dataset, batch_size, shard_size, dtype, overlays, spatial_dims)
    columns = {"image_column": image_column, "target_column": target_column, "name_column": name_column}
    device = explainers.device_of(explainer)
    feed: Feed
    if isinstance(dataset, Photographs):
        if given := [name for name, value in columns.items() if value is not None]:
            raise ValueError(f"{given[0]}: expected none beside Photographs, which are told their columns themselves")
        feed, prepare = Files(dataset), prepare or dataset.preparation.normalize
    else:
        stream = batches_of(
            dataset,
            batch_size,
            spatial_dims=spatial_dims,
            targets=target is None,
            class_names=names,
            **columns,
        )
        feed = Stream(type(dataset).__name__, stream)
    explainers.check(explainer, device, feed.targets if target is None else [target])
    first = trial(explainer, prepare, feed.examples[:1].to(device), overlay=overlays is not None, components=components)
    if class_names is None and first.class_names is None and names is not None:
        if by_name or (target is None and isinstance(feed, Stream)):
            assert first.logits is not None
            raise ValueError(
                f"class_names: expected {first.logits.shape[1]}, one for each class; the model's own are "
                f"{len(names)}. Give class_names=[...], as targets may be names"
            )
        names = None
    _check_classes(first, target, names)
    asked = explainers.facts(explainer, first, device) | {
        "target": target,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "dtype": dtype,
        "overlays": overlays,
        "components": components,
        "class_names": None if names is None else _digest(repr(list(names)).encode()),
        "spatial_dims": spatial_dims,
    }
    explain = BatchExplainer(
        explainer,
        prepare=prepare,
        dtype=DTYPES[dtype],
        overlay=overlays is not None,
        components=components,
        size=first.size,
    )
    example = _example(explainer, prepare, feed.examples.to(device), first)
    folder = Path(out)
    with held(durable.folder(folder)):
        job = resuming.found(folder, restart=restart)
        feed.arrange(folder, job)
        now = Job.of(feed.source, asked | feed.facts(job, append=append), feed.stamps())
        _check_same(folder, job, now, example, feed)
        kept = Store(
            folder,
            shape=first.size,
            dtype=dtype,
            shard_size=shard_size,
            pictures=overlays,
            total=feed.total,
            grow=append,
        )
        if job is not None and not (append and feed.total is None):
            feed.check(kept, job, batch_size)
        rest: Iterator[Batch] = iter(())
        if not kept.complete and explained is None:
            rest = feed.rest(kept, batch_size, pin_memory=device.type == "cuda")
        kept.begin()
        if job is not None:
            if append:  # with what is new
                now = Job.of(job.source, asked | feed.facts(None, append=False), now.stamps)
            source = feed.source if feed.source == UNNAMED else job.source
            _note(folder, replace(now, source=source), feed, before=job)
        before = kept.images
        if progress is not None:
            progress(before, feed.total)
        if not kept.complete:
            results: Iterable[tuple[Found, Batch]]
            if explained is None:
                results = (
                    (explain(batch.images, targets_of(batch, target), batch.errors), batch)
                    for batch in ahead(rest, device)
                )
            else:
                results = explained(kept.starts(batch_size))
            with Writer(kept, class_names=names, done=lambda: progress and progress(kept.images, feed.total)) as writer:
                for found, batch in results:
                    writer.put(found, batch)
            kept.finish()
        return Summary(folder, kept.images, kept.failed, before)


def _check(
    dataset: object,
    batch_size: int,
    shard_size: int | None,
    dtype: str,
    overlays: str | None,
    spatial_dims: int,
) -> int:
    """Refuse what can't be meant, before anything is done; returns the shards' size."""
    require()
    if isinstance(dataset, (str, os.PathLike)):
        raise TypeError(
            "dataset: expected an iterable, or pipelines.Photographs(source, preparation) for the images of a source; "
            f"got {dataset!r}"
        )
    if not isinstance(dataset, Photographs):
        check_repeatable(dataset)
    if shard_size is None:
        shard_size = batch_size * math.ceil(SHARD / max(1, batch_size))
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1; got {batch_size}")
    if shard_size < 1 or shard_size % batch_size:
        raise ValueError(f"shard_size: expected a multiple of batch_size, {batch_size}; got {shard_size}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}")
    if spatial_dims not in (1, 2, 3):
        raise ValueError(f"spatial_dims: expected 1, 2 or 3; got {spatial_dims!r}")
    if isinstance(dataset, Photographs) and spatial_dims != dataset.spatial_dims:
        raise ValueError(f"spatial_dims: expected {dataset.spatial_dims}, as the images have; got {spatial_dims}")
    if overlays is not None and overlays not in store.PICTURES:
        raise ValueError(f"overlays: expected one of {', '.join(store.PICTURES)}; got {overlays!r}")
    if overlays is not None and spatial_dims != 2:
        raise ValueError(f"overlays: expected None, as only images have them; got {overlays!r}")
    return shard_size


def _target(target: object, names: Sequence[str] | None) -> int | str | None:
    if target is None or target == "predicted":
        return target
    target = with_indices(target, names)
    try:
        if not isinstance(target, bool):
            return operator.index(target)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"target: expected None, a class index or name, or 'predicted'; got {target!r}")


def require() -> None:
    """Refuse to begin without what the results are written with.

    Raises
    ------
    ModuleNotFoundError
        The message names the extra.
    """
    missing = [name for name in ("pyarrow", "zarr") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"pipelines: {' and '.join(missing)} not installed; pip install 'cfcam-gpu[pipelines]'"
        )


def _check_same(folder: Path, job: Job | None, now: Job, example: resuming.Example, feed: Feed) -> None:
    """Refuse to go on with a job of which something else was asked; note a new one."""
    if job is None:
        _note(folder, now, feed)
    elif said := resuming.differences(job.asked, now.asked):
        raise resuming.refuse(folder, job, said)
    if (other := resuming.same_example(folder, example)) is not None:
        raise resuming.refuse(folder, job or now, [other])


def _note(folder: Path, job: Job, feed: Feed, before: Job | None = None) -> None:
    """Write what of a job isn't there yet."""
    # The job first: results of no job are nobody's.
    if job != before:
        job.write(folder)
    names = feed.names()
    if names is not None and (job != before or not (folder / resuming.ORDER).exists()):
        resuming.keep_order(folder, names)


def _example(
    explainer: Explainer, prepare: Prepare | None, images: torch.Tensor, first: Explanation
) -> resuming.Example:
    """What becomes of examples; of the first alone, in `first`, where they can't be explained together."""

    def together() -> resuming.Example:
        inputs = images if prepare is None else prepare(images)
        return resuming.example_of(first if len(images) == 1 else explainer(inputs), images, inputs)

    found = attempt(together, images.device)
    return resuming.example_of(first, images, images) if isinstance(found, Exception) else found


def _check_classes(result: Explanation, target: int | str | None, class_names: Sequence[str] | None) -> None:
    """Refuse a class that the model doesn't have, and names for fewer than it has, before anything is written."""
    assert result.logits is not None  # the predicted class was asked for
    classes = result.logits.shape[1]
    if isinstance(target, int):
        check_range(torch.tensor([target]), classes)
    if class_names is not None and len(class_names) < classes:
        raise ValueError(f"class_names: expected a name for each of the {classes} classes; got {len(class_names)}")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
