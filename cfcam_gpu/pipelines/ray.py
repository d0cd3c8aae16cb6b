"""Bulk explanations on many GPUs and machines: Ray Data schedules, moves and retries; nothing here does."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..image_files import reading
from ..image_files.photos import Preparation
from ..named_models import loading
from ..named_models.options import Settings
from ..sources.decoding import Decoded, decode
from ..sources.labels import target_of
from ..sources.photographs import Batch, Part, Photographs, Reader
from . import explainers
from .batches import BatchExplainer
from .bulk import DTYPES
from .found import Found
from .rows import columns
from .stream import targets_of

#: A batch in Ray Data's format "numpy": a column a name.
Columns = dict[str, Any]
#: Columns of :func:`columns` that say where an image was, which the caller's own columns do, and those of volumes.
_ELSEWHERE = ("index", "source", "overlay", "depth", "centre_z")


class Explain:
    """Explains batches of a Ray Data set: a callable class for ``ray.data.Dataset.map_batches``.

    Each actor of the pool loads the model once. A batch has a column ``image``: paths, encoded bytes or RGB arrays
    (H, W, 3) uint8; and, if wanted, ``target``: class indices or names, None or "" for the predicted class. What comes
    out are the other columns, ``image`` where it was paths, ``map`` (S, S), and those of the manifest
    (:data:`cfcam_gpu.pipelines.rows.COLUMNS`) from ``width`` to ``error`` that photographs can have. An image that
    can't be read or explained has its error, a map of NaN, and otherwise nothing.

    Parameters
    ----------
    model, weights, layers, preset, engine, device, method, augment, smooth
        See :class:`cfcam_gpu.named_models.options.Settings`.
    libragrad, window, spatial_dims, size, channels, mean, std, classes
        The same.
    dtype : {"float16", "float32"}
        Of the maps.
    overlay : bool
        Whether there is a column ``overlay``, (S, S, 3) uint8.
    components : int, optional
        How many groups of channels to name in the column ``components``.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layers, engine or device can't be what is meant; the message says why.

    Examples
    --------
    >>> images = ray.data.from_items([{"image": path} for path in paths])  # doctest: +SKIP
    >>> images.map_batches(  # doctest: +SKIP
    ...     cfcam_gpu.pipelines.ray.Explain,
    ...     fn_constructor_kwargs={"model": "lite0"},
    ...     batch_size=32,
    ...     concurrency=4,
    ...     num_gpus=1,
    ... ).write_parquet("maps")
    """

    def __init__(
        self,
        model: str = "lite0",
        weights: Path | str | None = None,
        *,
        layers: Sequence[str] = (),
        preset: str = "default",
        engine: str = "auto",
        device: str = "auto",
        method: str = "cfcam",
        augment: Sequence[str] = (),
        smooth: int = 0,
        libragrad: bool | None = None,
        window: tuple[float, float] | None = None,
        spatial_dims: int = 2,
        size: tuple[int, ...] | None = None,
        channels: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        classes: Path | str | None = None,
        dtype: str = "float16",
        overlay: bool = False,
        components: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}")
        loaded = loading.load_explainer(
            Settings(
                model=model,
                weights=None if weights is None else Path(weights),
                layers=tuple(layers),
                engine=engine,
                preset=preset,
                device=device,
                method=method,
                augment=tuple(augment),
                smooth=smooth,
                libragrad=libragrad,
                window=window,
                spatial_dims=spatial_dims,
                size=size,
                channels=channels,
                mean=mean,
                std=std,
                classes=None if classes is None else Path(classes),
            )
        )
        explainers.check(loaded.explain, loaded.device)
        self.device, self.class_names = loaded.device, loaded.class_names
        self.preparation = loaded.model.takes
        self.explain = BatchExplainer(
            loaded.explain,
            prepare=self.preparation.normalize,
            dtype=DTYPES[dtype],
            overlay=overlay,
            components=components,
        )
        self._readers = ThreadPoolExecutor(torch.get_num_threads())

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """Explain a batch.

        Raises
        ------
        KeyError
            If it has no column ``image``.
        RuntimeError
            If the device's memory does not hold a single image, or the device is out of order.
        """
        if "image" not in batch:
            raise KeyError(f"batch: expected a column 'image'; got {', '.join(batch)}")
        images = list(self._readers.map(self._read, batch["image"]))
        count = len(images)
        targets, faults = self._targets(batch.get("target"), count)
        errors = [image.error or fault for image, fault in zip(images, faults)]
        pixels = torch.stack([image.pixels for image in images])
        found = self.explain(pixels.to(self.device), targets, errors).to_host()
        kept = {name: values for name, values in batch.items() if name != "image" or _paths(values)}
        sizes, pages = [image.size for image in images], [image.pages for image in images]
        return kept | self._columns(found, Batch([""] * count, pixels, list(sizes), targets, errors, pages))

    def _columns(self, found: Found, batch: Batch) -> Columns:
        known = columns(found, batch, class_names=self.class_names)
        left_out = _ELSEWHERE if found.components is not None else (*_ELSEWHERE, "components")
        result: Columns = {name: _objects(values) for name, values in known.items() if name not in left_out}
        result["map"] = found.maps.numpy()
        if found.overlays is not None:
            result["overlay"] = found.overlays.numpy()
        return result

    def _read(self, image: Any) -> Decoded:
        plain = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        if plain and isinstance(self.preparation, Preparation) and self.preparation.channels in (1, 3):
            return Decoded(self.preparation.pixels(Image.fromarray(image)), (image.shape[1], image.shape[0]))
        if isinstance(image, (str, Path)):
            return decode(Path(image), self.preparation)
        if isinstance(image, bytes):
            return decode(io.BytesIO(image), self.preparation)
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        return Decoded.failed(f"expected a path, bytes or (H, W, 3) uint8; got {got}", self.preparation)

    def _targets(self, given: Any, count: int) -> tuple[list[int | None], list[str | None]]:
        """Class indices, and what is wrong with those that are none."""
        targets: list[int | None] = [None] * count
        faults: list[str | None] = [None] * count
        for b, target in enumerate([] if given is None else list(given)):
            try:
                targets[b] = target_of(target, self.class_names)
            except ValueError as error:
                faults[b] = str(error)
        return targets, faults


def _paths(values: Any) -> bool:
    return all(isinstance(value, (str, Path)) for value in values)


def _objects(values: Sequence[Any]) -> Any:
    """A column in which None is a missing value."""
    result = np.empty(len(values), object)
    for b, value in enumerate(values):  # at once, lists of one length would be taken for an axis
        result[b] = value
    return result


def explained(
    photographs: Photographs,
    starts: Sequence[int],
    *,
    batch_size: int,
    target: int | str | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[Found, Batch]]:
    """The explanations of some batches of a SOURCE, in their order, made on the cluster that Ray is connected to.

    Batches are those of a run on one machine, so that the results are, too, where the machines are alike. All of them
    must see the files by the same names. An actor that dies is replaced, and what it was at is done again: by Ray.

    Parameters
    ----------
    photographs : Photographs
    starts : sequence of int
        Places of the batches' first images.
    batch_size : int
    target : None, int or "predicted"
        See :func:`cfcam_gpu.pipelines.run`.
    options : mapping
        For :class:`Explain`.

    Raises
    ------
    RuntimeError
        If a worker fails, with what it raised, or there are no workers any more, in Ray's words.
    """
    # A row is a batch: blocks of rows are Ray's affair, and must not change what is explained together.
    plan = [{"part": pickle.dumps(part)} for part in photographs.parts(batch_size, starts)]
    reading = partial(_read, reader=photographs.reader())
    for row in flow(plan, reading, _ExplainBatch, {"target": target, **options}):
        yield pickle.loads(row["found"])


def flow(
    plan: Sequence[Columns], read: Callable[[Columns], Columns], explain: type[Explain], options: Mapping[str, Any]
) -> Iterator[Columns]:
    """Rows read and then explained on the cluster that Ray is connected to, in their order.

    Parameters
    ----------
    plan : sequence of dict
        Rows, each explained by itself.
    read : callable
        Gets and returns a row, as a batch of one, on any CPU.
    explain : type of Explain
        Called with what `read` returns, by as many actors as there are GPUs, or else CPUs.
    options : mapping
        For `explain`.

    Raises
    ------
    RuntimeError
        As :func:`explained`.
    """
    import ray.data

    if not plan:
        return
    rows = ray.data.from_items(list(plan))
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 1), 0 if options.get("device") == "cpu" else there.get("GPU", 0)
    # One CPU at least reads.
    actors = int(gpus or max(1, cpus - 1))
    share = 1 if cpus > 1 else 0.5
    results = rows.map_batches(read, batch_size=1, num_cpus=share).map_batches(
        explain,
        fn_constructor_kwargs=dict(options),
        batch_size=1,
        concurrency=min(actors, len(plan)),
        num_cpus=share,
        num_gpus=1 if gpus else None,
    )
    results.context.execution_options.preserve_order = True
    results.context.enable_progress_bars = False
    try:
        yield from results.iter_rows()
    except ray.exceptions.RayError as error:
        # What a worker raised, or in Ray's own words that there are no workers any more.
        cause = getattr(error, "cause", None) or error
        raise RuntimeError(str(cause)) from cause


def _read(batch: Columns, *, reader: Reader) -> Columns:
    reading.quiet()  # the process is Ray's, for this alone
    part: Part = pickle.loads(batch["part"][0])
    return {"batch": _objects([pickle.dumps(reader[part])])}


class _ExplainBatch(Explain):
    """The same for batches that were read already, whole ones in a row."""

    def __init__(self, target: int | str | None, **options: Any) -> None:
        super().__init__(**options)
        self.target = target

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        read: Batch = pickle.loads(batch["batch"][0])
        found = self.explain(read.images.to(self.device), targets_of(read, self.target), read.errors).to_host()
        return {"found": _objects([pickle.dumps((found, read._replace(images=read.images[:0])))])}
