"""What the service does with an image, without HTTP and without Ray: decode, explain a batch, encode the answer."""

from __future__ import annotations

import io
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .. import __version__
from ..explain.attempts import OUT_OF_MEMORY, together_or_alone
from ..image_files import photos, pictures
from ..named_models import exported, loading
from ..named_models.options import Settings
from ..pipelines import explainers
from ..pipelines.explainers import Explainer
from ..results import saving
from .explainers import Explainers

#: How an answer has its map: the values, a grey picture, or not at all.
Encoding: TypeAlias = Literal["float16", "png", "none"]
#: The most frames that a file of DICOM can have: its Number of Frames (0028,0008) is an Integer String of 32 bits.
FRAMES = 2**31 - 1
#: What a device that is out of order raises, where torch has a name for it (2.8 and later).
_ACCELERATOR: tuple[type[Exception], ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
#: What is told by its class, and not in words alone.
_TOLD: tuple[type[Exception], ...] = (*OUT_OF_MEMORY, *_ACCELERATOR)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may bring.

    Parameters
    ----------
    body : int
        Bytes of the body.
    pixels : int
        Of one image, as its header has them.
    images : int
        In one request.
    """

    body: int = 32 * 2**20
    pixels: int = 50_000_000
    images: int = 16


class Served(NamedTuple):
    """What a service has: what it says of its model, the limits of a request, and the model's classes."""

    about: dict[str, Any]
    limits: Limits
    class_names: list[str]


class Question(NamedTuple):
    """An encoded image; the class to explain, None for the predicted one; what the answer has beside the record.

    Of DICOM, which frame of it, from 0, and the window by which it is shown, None for the service's or its own. The
    method, None for the service's own.
    """

    data: bytes
    target: int | None = None
    encoding: Encoding = "float16"
    overlay: bool = False
    frame: int = 0
    window: tuple[float, float] | None = None
    method: str | None = None


class Seen(NamedTuple):
    """A question whose image is decoded: (3, H, W) uint8, as the model sees it, and the number of pages of its file.

    ``refers`` has the UIDs of an image of DICOM; the rest of its header goes no further.
    """

    question: Question
    pixels: torch.Tensor
    pages: int
    refers: dict[str, Any]


class Explained(NamedTuple):
    """What :func:`cfcam_gpu.results.saving.describe` knows of a map; the map (H, W) float16; its overlay, uint8."""

    seen: Seen
    record: saving.Line
    map: NDArray[np.float16]
    overlay: NDArray[np.uint8] | None


class Picture(NamedTuple):
    """An array as bytes: little-endian ``"float16"``, or ``"png"``."""

    encoding: str
    shape: tuple[int, ...]
    data: bytes


class Answer(NamedTuple):
    """What is known of a map, the map and its overlay as far as they were asked for, and how it went.

    ``seconds`` are those of each stage; ``batch`` is the number of images that were explained together, for the first
    of them, and 0 for the others.
    """

    record: saving.Line
    map: Picture | None
    overlay: Picture | None
    seconds: dict[str, float]
    batch: int = 0


class UnavailableError(RuntimeError):
    """Nothing can answer now; a little later something may."""


class DeviceError(UnavailableError):
    """The device is out of order: whatever this process is asked would fail."""


class MethodError(ValueError):
    """The model is none for the method that was asked for."""


class InternalError(RuntimeError):
    """What is no client's fault. The message is the traceback, for the log alone."""


class Backend:
    """A model, ready to answer.

    Parameters
    ----------
    settings : Settings
    limits : Limits
    components : int, optional
        How many groups of channels to name in each answer.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layers, engine, device or method can't be what is meant; the message says why.
    """

    def __init__(self, settings: Settings, limits: Limits, components: int | None = None) -> None:
        loading.check(settings, components=components)
        self.settings, self.limits, self.components = settings, limits, components
        #: Why the device is out of order, once it is: no question will be answered any more.
        self.fault: DeviceError | None = None
        loaded = loading.load_explainer(settings)
        explainers.check(loaded.explain, loaded.device)
        self.model, self.device = loaded.model, loaded.device
        self.explainer, self.class_names = loaded.explain, loaded.class_names
        self._explainers = Explainers(settings, loaded)
        self.about: dict[str, Any] = {
            # Where a file lies is no client's affair.
            "model": settings.model if settings.file is None else settings.file.name,
            "trained": self.model.trained,
            "classes": len(self.class_names),
            "size": self.model.preparation.size,
            "channels": self.model.preparation.channels,
            "class_names": loaded.names_from,
            "notes": list(loaded.nobody_said),
            "method": settings.method,
            "methods": self._explainers.titles,
            "target": "predicted" if exported.is_of_predicted(loaded.explain) else "any",
            "layers": [layer.name for layer in loaded.layers],
            "preset": loaded.preset,
            "engine": loaded.engine,
            "device": str(self.device),
            "version": __version__,
        }

    def decode(self, data: bytes) -> torch.Tensor:
        """What the model sees of an encoded image: (3, size, size) uint8.

        Raises
        ------
        cfcam_gpu.image_files.photos.UnreadableError
            If it is no image, or too large a one.
        """
        return self.see(Question(data)).pixels

    def see(self, question: Question) -> Seen:
        """A question with its image decoded.

        Raises
        ------
        cfcam_gpu.image_files.photos.UnreadableError
            As :meth:`decode`.
        """
        page = photos.first_page(
            io.BytesIO(question.data),
            max_pixels=self.limits.pixels,
            window=question.window or self.model.preparation.window,
            frame=question.frame,
            takes=self.model.preparation,
        )
        return Seen(question, self.model.preparation.pixels(page.image), page.pages, pictures.refers(page.source))

    def explain(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        """The answer to each question, or why there is none; those of one method in one batch as far as that goes."""
        results: list[Explained | Exception | Seen] = []
        for question in questions:
            try:
                results.append(self.see(question))
            except photos.UnreadableError as error:
                results.append(error)
        there = [i for i, one in enumerate(results) if isinstance(one, Seen)]
        for some in by_method([questions[i] for i in there]):
            places = [there[i] for i in some]
            seen = [cast("Seen", results[i]) for i in places]
            for i, found in zip(places, self.explain_seen(seen)):
                results[i] = found
        return [one if isinstance(one, Exception) else encode(cast("Explained", one)) for one in results]

    def explain_seen(self, questions: Sequence[Seen]) -> list[Explained | Exception]:
        """What is found for each question of one method, or why nothing is; in one batch as far as that goes.

        An image that the model can't take spoils its batch; each is then explained by itself. If the device is
        out of order, ``fault`` says so, too. Whatever else fails without an image's fault is an InternalError.
        """
        found: list[Explained | Exception] = []
        if self.fault is None and questions:
            try:
                for some, result in together_or_alone(self._explained, questions, self.device):
                    found += [result] * len(some) if isinstance(result, Exception) else result
            except RuntimeError as error:
                self._out_of_order(error)
            for fault in found:
                if isinstance(fault, _ACCELERATOR):
                    self._out_of_order(fault)
        return found if self.fault is None else [self.fault] * len(questions)

    def check(self) -> None:
        """Whether the device is in order still.

        Raises
        ------
        DeviceError
            What it is out of order by: ``fault``.
        """
        if self.fault is not None:
            raise self.fault

    def _out_of_order(self, error: Exception) -> None:
        self.fault = DeviceError(f"device {self.device}: {error}")

    def _explained(self, questions: Sequence[Seen]) -> list[Explained]:
        try:
            return self._explained_together(questions)
        except _TOLD:
            raise
        except Exception as error:
            if isinstance(error, ValueError) and _refused_by_us(error):
                raise
            # Told in words: the exception itself may be of a class that no other process has.
            raise InternalError("".join(traceback.format_exception(error))) from None

    def _explainer(self, questions: Sequence[Seen]) -> Explainer:
        """Of the one method of `questions`."""
        method = questions[0].question.method or self.settings.method
        try:
            return self._explainers.of(method)
        except _TOLD:
            raise
        except Exception as error:
            if _refused_by_us(error):
                raise MethodError(f"method: {method} does not suit this model: {error}") from None
            raise

    def _explained_together(self, questions: Sequence[Seen]) -> list[Explained]:
        explainer = self._explainer(questions)
        pixels = torch.stack([seen.pixels for seen in questions]).to(self.device)
        images = self.model.preparation.normalize(pixels)
        result = explainer(images, [seen.question.target for seen in questions])
        records = saving.describe(result, self.class_names)
        if self.components is not None and explainer is self.explainer:
            for record, parts in zip(records, result.components(images, self.components)):
                record["components"] = [part.describe() for part in parts]
        maps = result.maps.half().cpu().numpy()
        drawn = [i for i, seen in enumerate(questions) if seen.question.overlay]
        overlays = dict(zip(drawn, result.overlay(pixels).cpu().numpy()[drawn])) if drawn else {}
        return [Explained(seen, records[i], maps[i], overlays.get(i)) for i, seen in enumerate(questions)]


def by_method(questions: Sequence[Question]) -> list[list[int]]:
    """The places of the questions of each method: what is explained together."""
    places: dict[str | None, list[int]] = {}
    for i, question in enumerate(questions):
        places.setdefault(question.method, []).append(i)
    return list(places.values())


def encode(explained: Explained) -> Answer:
    """An answer, with its map and its overlay as its question wants them."""
    encoding, values = explained.seen.question.encoding, explained.map
    found = None
    if encoding == "float16":
        found = Picture(encoding, values.shape, values.astype("<f2").tobytes())
    elif encoding == "png":
        found = _png((values.astype(np.float32) * 255).round().astype(np.uint8))
    record = {**explained.record, "pages": explained.seen.pages, **explained.seen.refers}
    return Answer(record, found, None if explained.overlay is None else _png(explained.overlay), {})


def _png(pixels: NDArray[np.uint8]) -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return Picture("png", pixels.shape, file.getvalue())


def _refused_by_us(error: Exception) -> bool:
    """Whether it was raised by this package, which says what is wrong with an image, and not by the user's model."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    own = f"{__name__.partition('.')[0]}."
    return last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith(own)
