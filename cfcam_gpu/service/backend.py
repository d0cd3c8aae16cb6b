"""What the service does with an image, without HTTP and without Ray: decode, explain a batch, describe."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__, engines, export, models, photos
from ..config import Config
from ..explainer import CFCAM
from ..explanation import Explanation
from ..runner import _device


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which explainer. As :class:`cfcam_gpu.runner.Job` has them."""

    model: str = "lite0"
    weights: Path | None = None
    layers: tuple[str, ...] = ()
    engine: str = "auto"
    preset: str = "default"
    device: str = "auto"


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
    """What :func:`cfcam_gpu.export.describe` knows of a map; the map (H, W) float16; its overlay (H, W, 3) uint8."""

    record: export.Record
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
        self.device = _device(settings.device)
        engine = cast(Any, engines.choose(settings.engine, self.device)).__name__.rpartition(".")[2]
        self.model = models.load(settings.model, settings.weights)
        self.model.module.to(self.device)
        config = Config.paper() if settings.preset == "paper" else None
        self.explainer = CFCAM(self.model.module, list(settings.layers) or None, config=config, engine=engine)
        size = self.model.preparation.size
        # Shows what is wrong with them, how many classes there are, and which layer was chosen.
        try:
            blank = self._explain(torch.zeros(1, 3, size, size, dtype=torch.uint8), None)
        except RuntimeError as error:
            raise RuntimeError(f"model: {settings.model} fails on a blank image of {size} x {size}: {error}") from error
        self.class_names = models.class_names(blank.logits.shape[1])
        self.about = {
            "model": settings.model,
            "trained": self.model.trained,
            "classes": len(self.class_names),
            "size": size,
            "layers": [layer.name for layer in blank.layers],
            "preset": settings.preset,
            "engine": engine,
            "device": str(self.device),
            "version": __version__,
        }

    def decode(self, data: bytes) -> torch.Tensor:
        """What the model sees of an encoded image: (3, size, size) uint8.

        Raises
        ------
        cfcam_gpu.photos.UnreadableError
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

        An image that the model can't take spoils its batch; each is then explained by itself.
        """
        try:
            return list(self._answers(questions))
        except (TypeError, ValueError, RuntimeError) as error:
            if len(questions) == 1:
                return [error.with_traceback(None)]  # which would keep the batch's tensors alive
        return [answer for question in questions for answer in self.explain([question])]

    def _answers(self, questions: Sequence[Question]) -> list[Answer]:
        pixels = torch.stack([question.pixels for question in questions])
        result = self._explain(pixels, [question.target for question in questions])
        records = export.describe(result, self.class_names)
        maps = result.maps.half().cpu().numpy()
        drawn = [i for i, question in enumerate(questions) if question.overlay]
        overlays = dict(zip(drawn, result.overlay(pixels.to(self.device)).cpu().numpy()[drawn])) if drawn else {}
        return [Answer(record, maps[i], overlays.get(i)) for i, record in enumerate(records)]

    def _explain(self, pixels: torch.Tensor, target: Any) -> Explanation:
        return self.explainer(self.model.preparation.normalize(pixels.to(self.device)), target)
