"""explain_text: why an image fits a text, in models of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from ..hooks.guard import check_model
from ..hooks.target_layer import Layer, find
from ..methods import METHODS
from ..results.explanation import Explanation
from ..results.seen import Seen
from ..targets.request import Request, Score
from ..targets.scores import Contrast, Label
from .cam import CAM
from .cfcam import check_images
from .prepared import Pictured, parts_of, pixels_of, prepare
from .zero_shot import ZeroShot


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TextExplanation(Pictured):
    """The explanation of B images by T texts, which are its classes, with what the model saw.

    Parameters
    ----------
    images : (B, 3, H, W) uint8 tensor
        The images as the model saw them, cut and scaled by its processor: what the maps lie on.
    inputs : (B, 3, H, W) floating tensor
        The same as the model takes them, for :meth:`components` and :meth:`trust`.
    sigmoid : bool
        Whether a probability is the sigmoid of the text's own score, as of SigLIP, and not a softmax over the texts.
    """

    inputs: torch.Tensor
    sigmoid: bool

    def probabilities_of(self, logits: torch.Tensor) -> torch.Tensor:
        """The probabilities of the texts from similarities (N, T): (N, T) float32, of SigLIP each text's own.

        NaN of one text alone where they would be a softmax.
        """
        return logits.float().sigmoid() if self.sigmoid else super().probabilities_of(logits)


def explain_text(
    model: nn.Module,
    processor: Any,
    images: Any,
    texts: str | Sequence[str],
    *,
    target_layer: Layer | Sequence[Layer] | None = None,
    method: str = "cfcam",
    **options: Any,
) -> TextExplanation:
    """Why images fit texts, in a model of images and texts such as CLIP: a map for each image and each text.

    The image tower runs once for all texts, and the texts are encoded once. What is explained of a text is its log-odds
    among the texts: its similarity minus the log-sum-exp of the others', as :class:`cfcam_gpu.targets.ImageText` has
    it. Of one text alone, and of each text of SigLIP, which scores texts one by one, it is the similarity itself.

    Parameters
    ----------
    model : torch.nn.Module
        Of transformers, open_clip or clip: see :class:`cfcam_gpu.explain.ZeroShot`. Nothing of it is changed.
    processor : processor, pair or tokenizer
        A processor of transformers; a pair (preprocess, tokenizer), as open_clip has it; or where images are prepared
        already a tokenizer alone.
    images : PIL image, list of these, or (B, 3, H, W) floating tensor
        A tensor is prepared as the model wants it, on the model's device.
    texts : str or list of T str
        What the image may show. One str: the maps are (B, H, W). A list: (B, T, H, W).
    target_layer : Layer, sequence of these, or None
        Of the image tower; None chooses. `layers` of an earlier result saves the forwards that the choice takes.
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`.
    **options
        As for :class:`cfcam_gpu.CAM`: `augment`, `smooth`, `config`, `engine` and others.

    Returns
    -------
    TextExplanation
        Its classes are the texts, its `logits` the similarities (B, T) as the model gives them.

    Raises
    ------
    TypeError, ValueError
        If the model is none of images and texts, or an argument is none of these; the message says why.

    Examples
    --------
    >>> result = explain_text(model, processor, photograph, ["a cat", "a dog"])  # doctest: +SKIP
    >>> result.probability, result.overlay()  # doctest: +SKIP
    """
    model = check_model(model)
    preprocess, _ = parts_of(processor)
    inputs = prepare(images, preprocess, model)
    check_images(model, inputs)
    classifier = ZeroShot(model, processor, texts)
    explainer = _ByText(classifier, CAM(classifier, _by_name(model, target_layer), method=method, **options))
    indices = torch.arange(len(classifier.class_names)).expand(len(inputs), -1)
    found = explainer.explain(inputs, Request(indices=indices[:, 0] if isinstance(texts, str) else indices))
    pixels = pixels_of(inputs, preprocess)
    known = {each.name: getattr(found, each.name) for each in fields(found)}
    known["seen"] = Seen.of(pixels)
    return TextExplanation(**known, images=pixels, inputs=inputs, sigmoid=classifier.sigmoid)


class _ByText:
    """An explainer of a classifier by texts that scores a text against the others, where the model compares them."""

    def __init__(self, classifier: ZeroShot, explainer: CAM) -> None:
        self._classifier, self._explainer = classifier, explainer

    def explain(self, images: torch.Tensor, request: Request) -> Explanation:
        """The explanation of texts (B,) or (B, T), by their indices."""
        indices = request.indices
        assert indices is not None
        if not METHODS[self._explainer.method].classes_only:
            rows = indices.tolist()
            scores = [tuple(map(self._score, row)) if isinstance(row, list) else self._score(row) for row in rows]
            request = Request(scores=tuple(scores))
        found = self._explainer._explain(images, request)
        assert found.origin is not None
        return replace(
            found,
            target=indices.to(found.raw_maps.device, copy=True),
            class_names=self._classifier.class_names,
            origin=found.origin._replace(explain=self.explain),
        )

    def _score(self, index: int) -> Score:
        alone = self._classifier.sigmoid or len(self._classifier.class_names) == 1
        return Label(index) if alone else Contrast(index)


def _by_name(model: nn.Module, given: Any) -> Any:
    """Target layers that are modules by their names: the classifier may have copies of some."""
    if isinstance(given, (list, tuple)):
        return [_by_name(model, layer) for layer in given]
    return find(model, given).name if isinstance(given, nn.Module) else given
