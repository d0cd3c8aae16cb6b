"""Explain a whole data set into a folder, and go on where it was stopped."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import engines
from .._version import __version__
from ..explain.attempts import attempt
from ..explain.cfcam import CFCAM
from ..targets.request import check_range
from . import store
from .batches import BatchExplainer, Found
from .sources import Batch, Photographs
from .stream import ahead, batches_of, check_repeatable, targets_of, unseen
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
    explainer: CFCAM,
    dataset: Photographs | Iterable[Any],
    out: str | os.PathLike[str],
    *,
    target: int | str | None = None,
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch_size: int = 32,
    shard_size: int | None = None,
    dtype: str = "float16",
    overlays: str | None = None,
    class_names: Sequence[str] | None = None,
    restart: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    explained: Callable[[int], Iterable[tuple[Found, Batch]]] | None = None,
) -> Summary:
    """Explain every image of a data set; called again after whatever stopped it, it goes on where it was.

    Parameters
    ----------
    explainer : CFCAM
    dataset : Photographs, DataLoader or iterable
        :class:`Photographs` are read in worker processes. Anything else gives images (C, H, W) or batches (B, C, H, W)
        of one size, or tuples of these with a target each (an index or None) and, third, a name each; the same in the
        same order every time. Of what is done already it is asked again, to see that.
    out : path
        A folder for ``maps.zarr`` ((N, H, W), NaN where an image has an error), ``manifest.parquet`` (a row for each
        image, see :data:`cfcam_gpu.pipelines.rows.COLUMNS`), ``overlays`` and ``job.json``, what was asked.
    target : None, int or "predicted"
        What to explain of every image. None: the data set's own target where it gives one, else the predicted class.
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
    class_names : sequence of K str, optional
    restart : bool
        Drop what a job left in `out`, and begin anew.
    progress : callable, optional
        Called with (images written, images in all or None where that isn't known), perhaps in another thread.
    explained : callable, optional
        Called with the index of the first image that isn't done, of Photographs; what it gives is written, instead of
        what would be explained here: :func:`cfcam_gpu.pipelines.ray.explained`, say.

    Returns
    -------
    Summary

    Raises
    ------
    ChangedError
        If the data set, the model or what is asked is not what `out` was begun with; the message says what.
    FileExistsError
        If `out` has results of no job, or another process is writing to it.
    ModuleNotFoundError
        If zarr or pyarrow is not installed.
    OSError
        If something can't be written: a full disk, say. What is done is kept.
    RuntimeError
        If the device's memory does not hold one image, or the device is out of order. What is done is kept.
    TypeError, ValueError
        If an argument can't be what is meant.

    Notes
    -----
    An image that can't be read or explained has its row with the error; the other maps of its batch are, bit for bit,
    those of a batch of this size. Batches are the same wherever a job was stopped, so that its results are those of an
    undisturbed run, byte for byte, where the model gives the same for the same batch. Not so where a batch does not fit
    the device's memory: it is halved, and the maps may differ by rounding.
    """
    shard_size = _check(dataset, target, batch_size, shard_size, dtype, overlays)
    device = next((parameter.device for parameter in explainer.model.parameters()), torch.device("cpu"))
    asked: dict[str, Any] = {}
    total = None
    if isinstance(dataset, Photographs):
        total, source = len(dataset), dataset.source
        prepare = prepare or dataset.preparation.normalize
        example = dataset.preparation.blank(1)
        asked = {"images": total, "fingerprint": dataset.fingerprint}
    else:
        source, stream = type(dataset).__name__, batches_of(dataset, batch_size)
        first = next(stream, None)
        if first is None:
            raise ValueError("dataset: expected images; it has none")
        example, stream = torch.zeros_like(first.images[:1]), chain([first], stream)
    explain = BatchExplainer(explainer, prepare=prepare, dtype=DTYPES[dtype], overlay=overlays is not None)
    asked |= _facts(explainer, example.to(device), prepare)
    if target is not None or class_names is not None:
        _check_classes(explain, example.to(device), target, class_names)
    asked |= {
        "target": target,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "dtype": dtype,
        "overlays": overlays,
        "class_names": None if class_names is None else _digest(repr(list(class_names)).encode()),
    }
    with store.opened(
        Path(out), asked, source=source, shard_size=shard_size, pictures=overlays, restart=restart
    ) as kept:
        before = kept.images
        if progress is not None:
            progress(before, total)
        if not kept.complete:
            results: Iterable[tuple[Found, Batch]]
            if explained is None:
                if isinstance(dataset, Photographs):
                    rest = dataset.batches(batch_size, start=before, pin_memory=device.type == "cuda")
                else:
                    rest = unseen(stream, kept.digests, shard_size // batch_size)
                results = (
                    (explain(batch.images, targets_of(batch, target), batch.errors), batch)
                    for batch in ahead(rest, device)
                )
            else:
                results = explained(before)
            with Writer(
                kept, class_names=class_names, done=lambda: progress and progress(kept.images, total)
            ) as writer:
                for found, batch in results:
                    writer.put(found, batch)
            kept.finish(dtype)
        return Summary(Path(out), kept.images, kept.failed, before)


def _check(
    dataset: object, target: object, batch_size: int, shard_size: int | None, dtype: str, overlays: str | None
) -> int:
    """Refuse what can't be meant, before anything is done; returns the shards' size."""
    require()
    if not isinstance(dataset, Photographs):
        check_repeatable(dataset)
    if not (target is None or target == "predicted" or (isinstance(target, int) and not isinstance(target, bool))):
        raise TypeError(f"target: expected None, a class index or 'predicted'; got {target!r}")
    if shard_size is None:
        shard_size = batch_size * math.ceil(SHARD / max(1, batch_size))
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1; got {batch_size}")
    if shard_size < 1 or shard_size % batch_size:
        raise ValueError(f"shard_size: expected a multiple of batch_size, {batch_size}; got {shard_size}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}")
    if overlays is not None and overlays not in store.PICTURES:
        raise ValueError(f"overlays: expected one of {', '.join(store.PICTURES)}; got {overlays!r}")
    return shard_size


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


def _facts(
    explainer: CFCAM, example: torch.Tensor, prepare: Callable[[torch.Tensor], torch.Tensor] | None
) -> dict[str, Any]:
    """What the results depend on, of model and method."""
    engines.choose(explainer.engine, example.device)  # or the reason why not
    if explainer.layers is None:  # they are chosen at the first call
        explainer(example if prepare is None else prepare(example))
    assert explainer.layers is not None
    assert explainer.config is not None
    return {
        "model": digest_of(explainer.model),
        "layers": [layer.name for layer in explainer.layers],
        "config": asdict(explainer.config),
        "engine": engines.resolve(explainer.engine, example.device),
        "device": example.device.type,
        "cfcam_gpu": __version__,
        "torch": torch.__version__,
    }


def _check_classes(
    explain: BatchExplainer, example: torch.Tensor, target: int | str | None, class_names: Sequence[str] | None
) -> None:
    """Refuse a class that the model doesn't have, and names for fewer than it has, before anything is written."""
    inputs = example if explain.prepare is None else explain.prepare(example)
    found = attempt(lambda: explain.explainer(inputs), example.device)
    if isinstance(found, Exception):
        return  # of a blank image, maybe; what is wrong with the others their rows say
    logits = found.logits
    assert logits is not None  # the predicted class was asked for
    classes = logits.shape[1]
    if isinstance(target, int):
        check_range(torch.tensor([target]), classes)
    if class_names is not None and len(class_names) < classes:
        raise ValueError(f"class_names: expected a name for each of the {classes} classes; got {len(class_names)}")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of(model: nn.Module) -> str:
    """A digest of a model's parameters and buffers: names, shapes, dtypes and values."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
