"""An exported file as an explainer: images in, an Explanation out, without the model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from .. import targets
from ..core.axes import INPUTS
from ..core.config import Config
from ..core.finite import NotFiniteError
from ..hooks.guard import warn
from ..hooks.target_layer import TargetLayer
from ..results.explanation import Explanation
from ..results.seen import Seen
from ..targets.names import text_of
from . import players
from .description import Description

DEVICES = ("auto", "cpu", "cuda")


def load(path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None) -> Deployed:
    """An exported file, ready to explain images.

    Parameters
    ----------
    path : path
        ``.onnx``, which onnxruntime plays, or ``.pt2``, which torch does. A ``.pt2`` holds machine code: load only one
        whose origin you trust.
    device : {"auto", "cpu", "cuda"}
        Where onnxruntime plays it; ``"auto"`` is CUDA where onnxruntime has its provider and torch sees a GPU. A
        ``.pt2`` runs where it was compiled for.
    threads : int, optional
        Of onnxruntime, for one call. Default: as many as torch has (``torch.get_num_threads()``).

    Returns
    -------
    Deployed

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If onnxruntime is not installed; the message says what to install.
    TypeError, ValueError
        If an argument can't be what is meant, or the file can't be read, or holds no explanation.
    RuntimeError
        If the device is not there.

    Examples
    --------
    >>> explain = cfcam_gpu.deploy.load("lite0.onnx")  # doctest: +SKIP
    >>> explain(images).save("out", images=images)  # doctest: +SKIP
    """
    return Deployed(path, device=device, threads=threads)


def describe(path: str | os.PathLike[str]) -> Description:
    """What an exported file says of itself; it is not played for that.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As :func:`load`, but that onnx will do in onnxruntime's place.
    """
    return players.described(Path(path))


class Deployed:
    """An exported file. Several threads may call one.

    Parameters
    ----------
    path : path
    device : {"auto", "cpu", "cuda"}
    threads : int, optional

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError, RuntimeError
        As :func:`load`.

    Attributes
    ----------
    path : Path
    description : Description
        What the file says of itself: method, configuration, gradients, layers, sizes, classes, versions.
    device : torch.device
        Where it is played.
    runtime : str
        What plays it, with its version.
    digest : str
        Of the file's bytes, BLAKE2b of 16 bytes as hexadecimal digits.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None) -> None:
        if device not in DEVICES:
            raise ValueError(f"device: expected one of {', '.join(DEVICES)}; got {device!r}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int)):
            raise TypeError(f"threads: expected an int, or None for torch's; got {type(threads).__name__}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: expected at least 1; got {threads}")
        self.path = Path(path)
        # Now: another file may take its place.
        self.digest = _digest(self.path)
        self._player = players.open_file(self.path, device, threads)
        self.description: Description = self._player.description
        self.device, self.runtime = self._player.device, self._player.engine

    @property
    def layers(self) -> tuple[TargetLayer, ...]:
        """The target layers, without their modules; the finest first."""
        return tuple(layer.target_layer() for layer in self.description.layers)

    @property
    def config(self) -> Config:
        """What is computed."""
        return self.description.config

    @property
    def libragrad(self) -> bool:
        """Whether gradients are LibraGrad's."""
        return self.description.libragrad

    @property
    def method(self) -> str:
        """Its name, ``"cfcam"``."""
        return self.description.method

    @property
    def several(self) -> bool:
        """Whether there is a T axis: several classes of each image."""
        return self.description.classes is not None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the model's classes, where the file has them."""
        return self.description.class_names

    def __repr__(self) -> str:
        """The file, and what plays it."""
        return f"<{type(self).__name__} {self.path} by {self.runtime} on {self.device}>"

    def __call__(self, images: torch.Tensor, target: targets.Target = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        images : (B, C, H, W) floating tensor
            Prepared as the model wants them, of the size that the file was exported for, on any device. Other floating
            dtypes than float32 are converted. A file of a fixed batch N takes any B: N at a time, the last ones filled
            up.
        target : None, int, str, sequence or tensor
            As for :class:`cfcam_gpu.CFCAM`, but that a file of T classes takes (B, T) alone, one of the predicted class
            takes None, and no file takes a callable.

        Returns
        -------
        Explanation
            On the images' device. `labels`, `weights` and `eps` are None: a file does not give them.

        Raises
        ------
        TypeError, ValueError
            If images or target are refused, or an image has no finite map; the message names the argument, what was
            expected and what came.
        MemoryError, RuntimeError
            If what plays the file runs out of memory, or fails otherwise.

        Warns
        -----
        UserWarning
            If the clusters of an image were not complete after the steps that the file has for them.
        """
        self._check(images)
        asked = self._asked(target, len(images))
        inputs = images.detach().to(torch.float32).contiguous()
        outputs = [output.to(images.device) for output in self._play(inputs, asked)]
        maps, raw_maps, logits, classes, empty, converged = outputs
        unsound = maps.flatten(1).amax(dim=1).isnan().nonzero()[:, 0]
        if unsound.numel():
            raise NotFiniteError(
                "images: expected ones whose activations, gradients and logits are finite numbers within float32; "
                f"image {_some(unsound)} has NaN or infinity"
            )
        unfinished = (~converged.reshape(len(images), -1).all(dim=1)).nonzero()[:, 0]
        if unfinished.numel():
            warn(
                f"{self.path.name}: the clusters of image {_some(unfinished)} were not complete after the steps that "
                "the file has for them, so the map may differ from the library's; explain it with the model"
            )
        result = Explanation(
            raw_maps=raw_maps,
            # Of a segmentation the class is part of what was exported, and explained by a callable, as it were.
            target=None if self.description.segment is not None else classes,
            logits=logits,
            labels=None,
            weights=None,
            eps=None,
            layers=self.layers,
            config=self.config,
            size=self.description.size,
            inside=self.description.inside,
            method=self.method,
            class_names=self.class_names,
            called=self._called(len(images)),
            seen=Seen.of(images),
        )
        vars(result).update(maps=maps, empty=empty)  # in the places of what would be computed from the raw maps
        return result

    def _called(self, batch: int) -> tuple[tuple[str, ...], ...] | None:
        """What is explained, where it is a segmentation's class."""
        index = self.description.segment
        if index is None:
            return None
        return ((text_of(targets.Segment(index), self.class_names),),) * batch

    def _check(self, images: object) -> None:
        if not isinstance(images, torch.Tensor):
            raise TypeError(f"images: expected a torch tensor (B, 3, H, W); got {type(images).__name__}")
        wanted = self.description.images
        if images.ndim < 2 or tuple(images.shape[1:]) != wanted or len(images) == 0:
            form = INPUTS.get(len(wanted) - 1, "")
            one = "; of one image give images[None]" if tuple(images.shape) == wanted else ""
            raise ValueError(
                f"images: expected shape {form}, (B, {', '.join(map(str, wanted))}), as {self.path.name} was exported "
                f"for; got {tuple(images.shape)}{one}"
            )
        if not images.is_floating_point():
            raise TypeError(f"images: expected a floating dtype; got {images.dtype} (scale and normalise them first)")

    def _asked(self, target: targets.Target, batch: int) -> torch.Tensor | None:
        """The input `target`, on the host, -1 for a predicted class; None where the file takes none."""
        request = targets.read(target, batch, targets.ClassNames(self.class_names, None))
        if request.scores is not None:
            raise TypeError(
                "target: expected class indices or None; got a callable, which no file can hold: explain it with "
                "cfcam_gpu.CFCAM and the model"
            )
        asked = torch.full((batch,), -1) if request.indices is None else request.indices.cpu()
        named = torch.ones(batch, dtype=torch.bool) if request.indices is not None else torch.zeros(batch).bool()
        if request.predicted is not None:
            asked, named = torch.where(request.predicted, -1, asked), ~request.predicted
        if self.description.target == "predicted":
            if bool(named.any()):
                raise ValueError(
                    f"target: expected None, as {self.path.name} was exported to explain the predicted class; export "
                    "it with target='input' (--target input) to name one"
                )
            return None
        targets.check_range(asked[named], self.description.logits[0])
        classes = self.description.classes
        if (classes is None) != (asked.ndim == 1) or (classes is not None and asked.shape[1] != classes):
            form = "(B,)" if classes is None else f"(B, {classes})"
            got = "None" if request.indices is None else str(tuple(asked.shape))
            raise ValueError(
                f"target: expected class indices {form}, as {self.path.name} was exported for; got {got}. Export it "
                "with another number of classes (--classes), or call it once for each"
            )
        return asked

    def _play(self, images: torch.Tensor, target: torch.Tensor | None) -> list[torch.Tensor]:
        """The outputs for any number of images."""
        step = self.description.batch
        if step is None or step == len(images):
            return self._player.play(images, target)
        parts = []
        for first in range(0, len(images), step):
            # The last image once more fills up what is missing.
            places = torch.arange(first, first + step).clamp_max(len(images) - 1)
            some = images[places.to(images.device)]
            parts.append(self._player.play(some, None if target is None else target[places]))
        return [torch.cat(outputs)[: len(images)] for outputs in zip(*parts)]

    def _nothing(self) -> Explanation:
        """In the place of one image that has no finite values."""
        dims = len(self.description.size)
        return Explanation(
            raw_maps=torch.zeros(1, *[1] * dims, device=self.device),
            target=torch.zeros(1, dtype=torch.int64, device=self.device),
            logits=torch.zeros(1, *self.description.logits, device=self.device),
            labels=None,
            weights=None,
            eps=None,
            layers=self.layers,
            config=self.config,
            size=self.description.size,
            inside=self.description.inside,
            method=self.method,
            class_names=self.class_names,
        )


def _digest(path: Path) -> str:
    players.kind(path)  # refuses what is no file
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _some(indices: torch.Tensor) -> str:
    """The first ten, for people."""
    return ", ".join(map(str, indices[:10].tolist())) + (", ..." if len(indices) > 10 else "")
