"""What the service does with an image, without HTTP and without Ray: decode, explain a batch, describe."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..explain.attempts import together_or_alone
from ..photographs import loading, models, photos
from ..photographs.options import Settings
from ..results import saving


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


class Question(NamedTuple):
    """One image, (3, H, W) uint8 as the model sees it; the class to explain, None for the predicted one; what for."""

    pixels: torch.Tensor
    target: int | None
    overlay: bool


class Answer(NamedTuple):
    """What :func:`cfcam_gpu.results.saving.describe` knows of a map; the map (H, W) float16; its overlay, uint8."""

    record: saving.Line
    map: NDArray[np.float16]
    overlay: NDArray[np.uint8] | None


class Backend:
    """A model, ready to answer.

    Parameters
    ----------
    settings : Settings
    limits : Limits

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layers, engine or device can't be what is meant; the message says why.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self.settings, self.limits = settings, limits
        #: Why the device is out of order, once it is: no question will be answered any more.
        self.fault: Exception | None = None
        loaded = loading.load_cfcam(settings)
        self.model, self.device = loaded.model, loaded.device
        self.explainer, self.class_names = loaded.explain, loaded.class_names
        self.about: dict[str, Any] = {
            "model": settings.model,
            "trained": self.model.trained,
            "classes": len(self.class_names),
            "size": self.model.preparation.size,
            "layers": [layer.name for layer in loaded.layers],
            "preset": settings.preset,
            "engine": loaded.engine,
            "device": str(self.device),
            "version": __version__,
        }

    def decode(self, data: bytes) -> torch.Tensor:
        """What the model sees of an encoded image: (3, size, size) uint8.

        Raises
        ------
        cfcam_gpu.photographs.photos.UnreadableError
            If it is no image, or too large a one.
        """
        return self.model.preparation.pixels(photos.read(io.BytesIO(data), max_pixels=self.limits.pixels))

    def target(self, text: str) -> int | None:
        """The class that `text` means, by index or name; None for nothing, which is the predicted class.

        Raises
        ------
        ValueError
            If there is no such class; the message has the nearest names.
        """
        return models.class_index(text, self.class_names) if text else None

    def explain(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        """The answer to each question, or why there is none; all of them in one batch as far as that goes.

        An image that the model can't take spoils its batch; each is then explained by itself. If the device is
        out of order, ``fault`` says so, too.
        """
        answers: list[Answer | Exception] = []
        try:
            for some, found in together_or_alone(self._answers, questions, self.device):
                answers += [found] * len(some) if isinstance(found, Exception) else found
        except RuntimeError as error:
            self.fault = error.with_traceback(None)
            return [self.fault] * len(questions)
        return answers

    def check(self) -> None:
        """Whether the device is in order still.

        Raises
        ------
        Exception
            What it is out of order by: ``fault``.
        """
        if self.fault is not None:
            raise self.fault

    def _answers(self, questions: Sequence[Question]) -> list[Answer]:
        pixels = torch.stack([question.pixels for question in questions])
        images = self.model.preparation.normalize(pixels.to(self.device))
        result = self.explainer(images, [question.target for question in questions])
        records = saving.describe(result, self.class_names)
        maps = result.maps.half().cpu().numpy()
        drawn = [i for i, question in enumerate(questions) if question.overlay]
        overlays = dict(zip(drawn, result.overlay(pixels.to(self.device)).cpu().numpy()[drawn])) if drawn else {}
        return [Answer(record, maps[i], overlays.get(i)) for i, record in enumerate(records)]
