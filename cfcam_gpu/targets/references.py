"""Ready targets that look for something given in a model's output: an object, an embedding. See :mod:`.scores`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from .scores import Contrast, beside, check_index, checked, copied, what_came


@dataclass(frozen=True, eq=False)
class Detection:
    """A detected object: its score times its overlap with a reference box.

    Of the detections of the class that overlap the box by at least `iou` the one of the largest product counts: the
    similarity of D-RISE (Petsiuk et al., CVPR 2021, arXiv:2006.03204) for a single class score. Both factors are
    differentiated. Where nothing matches, the map is empty.

    Parameters
    ----------
    box : four numbers
        x1, y1, x2, y2 in the images' pixels.
    label : int
    iou : float in [0, 1]
        The least intersection over union.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these; the message names it.
    """

    box: Any
    label: int
    iou: float = 0.5
    whole_output: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_index("label", self.label)
        box = copied("box", self.box).float()
        if box.shape != (4,) or not bool((box[2:] > box[:2]).all()):
            raise ValueError(f"box: expected x1, y1, x2, y2 with x1 < x2 and y1 < y2; got {box.tolist()}")
        if not 0 <= self.iou <= 1:
            raise ValueError(f"iou: expected a number in [0, 1]; got {self.iou}")
        object.__setattr__(self, "box", box)

    def __call__(self, detections: Any) -> torch.Tensor:
        """From an image's ``boxes`` (N, 4), ``labels`` (N,) and ``scores`` (N,), as torchvision's detectors give.

        Raises
        ------
        TypeError
            If one of them is missing or of another shape.
        """
        if _has(detections, "pred_boxes") and not _has(detections, "boxes"):
            raise TypeError(
                "target: Detection expected boxes in the images' pixels, with labels and scores; got 'pred_boxes', "
                "which are relative to the image's size. Give a module that returns what the processor's "
                "post_process_object_detection(output, threshold=0.0, target_sizes=...) makes of this model's output, "
                "or a callable of 'logits' and 'pred_boxes' in targets.WholeOutput"
            )
        boxes, labels, scores = (_part(self, detections, key) for key in ("boxes", "labels", "scores"))
        shapes, count = (boxes.shape, labels.shape, scores.shape), boxes.shape[:1]
        if shapes != ((*count, 4), count, count):
            raise TypeError(
                "target: Detection expected boxes (N, 4), labels (N,) and scores (N,) of one image; got shapes "
                f"{', '.join(str(tuple(shape)) for shape in shapes)}"
            )
        overlap = iou(boxes.float(), beside(self.box, boxes))
        matched = (labels == self.label) & (overlap >= self.iou)
        products = (overlap * scores.float()).masked_fill(~matched, 0.0)
        return torch.cat([products, products.new_zeros(1)]).max()


@dataclass(frozen=True, eq=False)
class Similarity:
    """The cosine similarity of the image's embedding to a reference.

    Parameters
    ----------
    reference : (D,) tensor or array
        The embedding of another image, say.
    key : str or None
        What the embedding is called in the model's output, such as ``"image_embeds"``; None: it is the output.

    Raises
    ------
    TypeError, ValueError
        If `reference` is no tensor or array (D,).
    """

    reference: Any
    key: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _embeddings("reference", self.reference, 1))

    @property
    def whole_output(self) -> bool:
        """Whether the model's output is gone through by name."""
        return self.key is not None

    def __call__(self, sample: Any) -> torch.Tensor:
        """From an embedding (D,), or an output that has it by name.

        Raises
        ------
        TypeError
            If it is neither.
        """
        embedding = _embedding(self, sample, self.key, len(self.reference))
        return functional.cosine_similarity(embedding, beside(self.reference, embedding), dim=0)


@dataclass(frozen=True, eq=False)
class ImageText:
    """An image-text model: one text for the image, against others.

    Cosine similarities, scaled; that of the text minus the log-sum-exp of the others', so the text's log-odds in the
    zero-shot classifier that the texts make (Radford et al., "CLIP", 2021, arXiv:2103.00020). Of one text alone, its
    similarity.

    Parameters
    ----------
    texts : (N, D) tensor or array
        The texts' embeddings.
    index : int
        Which of them to explain.
    key : str or None
        What the image's embedding is called in the model's output, such as ``"image_embeds"``; None: it is the output.
    scale : float
        The model's, ``logit_scale.exp()``: about 100 for CLIP.

    Raises
    ------
    TypeError, ValueError
        If `texts` are no tensor or array (N, D), or `index` is none of them.
    """

    texts: Any
    index: int = 0
    key: str | None = None
    scale: float = 100.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", _embeddings("texts", self.texts, 2))
        check_index("index", self.index)
        if self.index >= len(self.texts):
            raise ValueError(f"index: expected one of the {len(self.texts)} texts; got {self.index}")

    @property
    def whole_output(self) -> bool:
        """Whether the model's output is gone through by name."""
        return self.key is not None

    def __call__(self, sample: Any) -> torch.Tensor:
        """From an embedding (D,), or an output that has it by name.

        Raises
        ------
        TypeError
            If it is neither.
        """
        embedding = _embedding(self, sample, self.key, self.texts.shape[1])
        texts = beside(self.texts, embedding)
        logits = self.scale * functional.cosine_similarity(embedding[None], texts, dim=1)
        return logits[0] if len(logits) == 1 else Contrast(self.index)(logits)


def iou(boxes: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Intersection over union (N,) of boxes (N, 4) with one (4,), each x1, y1, x2, y2."""
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clamp_min(0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1)
    # Boxes that are found may be of no area, given ones are not.
    return common / (areas + (box[2:] - box[:2]).clamp_min(0).prod() - common).clamp_min(1e-9)


def _has(sample: Any, key: str) -> bool:
    return key in sample if isinstance(sample, Mapping) else hasattr(sample, key)


def _part(target: object, sample: Any, key: str) -> torch.Tensor:
    """What is called `key` in an image's part of the output."""
    tensor = sample.get(key) if isinstance(sample, Mapping) else getattr(sample, key, None)
    if not isinstance(tensor, torch.Tensor):
        name = type(target).__name__
        raise TypeError(f"target: {name} expected an output with a tensor called {key!r}; got {what_came(sample)}")
    return tensor


def _embeddings(argument: str, value: Any, ndim: int) -> torch.Tensor:
    embeddings = copied(argument, value)
    if embeddings.ndim != ndim or not embeddings.numel():
        wanted = "(D,)" if ndim == 1 else "(N, D)"
        raise ValueError(f"{argument}: expected shape {wanted}; got {tuple(embeddings.shape)}")
    return embeddings.float()


def _embedding(target: object, sample: Any, key: str | None, size: int) -> torch.Tensor:
    embedding = sample if key is None else _part(target, sample, key)
    hint = "" if key or isinstance(embedding, torch.Tensor) else ", or key='...' to name it"
    return checked(target, embedding, f"an embedding ({size},){hint}", lambda shape: shape == (size,)).float()
