"""ZeroShot: a classifier made of a model of images and texts, with a text for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..hooks.guard import check_model, guarded
from .batch_first import batch_first
from .prepared import parts_of

#: Models of transformers whose scores of an image and a text are the scaled cosine of two embeddings, as tests compare.
_TYPES = ("altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "vision-text-dual-encoder")


class ZeroShot(nn.Module):
    """A classifier by texts, made of a model of images and texts: images (B, 3, H, W) to similarities (B, T).

    The texts are encoded once, without gradients. An explainer takes this like any other classifier, its layers have
    the names that they have in the model, and its classes are called by the texts.
    The scores are those of the model's own forward, ``logits_per_image``: the cosine of the embeddings, scaled, and of
    SigLIP with a bias.

    Parameters
    ----------
    model : torch.nn.Module
        Of transformers: CLIP, SigLIP, MetaCLIP 2, Chinese-CLIP, AltCLIP or a VisionTextDualEncoder. Or of open_clip or
        clip: what has ``encode_image``, ``encode_text`` and ``logit_scale``. Used as it is; nothing of it is changed.
    processor : processor, pair or tokenizer
        A processor of transformers, a pair (preprocess, tokenizer), or the tokenizer alone.
    texts : str or sequence of str
        One at least, each another.

    Attributes
    ----------
    class_names : tuple of str
        The texts.
    sigmoid : bool
        Whether the model scores each text for itself, as SigLIP does: a probability is the sigmoid of a score. Else it
        is a softmax over the texts.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or a text has more tokens than the model takes.

    Examples
    --------
    >>> classifier = ZeroShot(model, processor, ["a cat", "a dog"])  # doctest: +SKIP
    >>> explain = cfcam_gpu.CFCAM(classifier)  # doctest: +SKIP
    >>> explain(images, target="a cat")  # doctest: +SKIP
    """

    texts: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, model: nn.Module, processor: Any, texts: str | Sequence[str]) -> None:
        super().__init__()
        model = check_model(model)
        self.class_names = read_texts(texts)
        self._of_transformers = _check_kind(model)
        _, tokenizer = parts_of(processor)
        source = batch_first(model)
        for name, child in source.named_children():
            self.add_module(name, child)
        self.training = model.training
        self._source = (
            source,
        )  # in a tuple it is no module of this one, and layers have the names that they have there
        with guarded(model):
            encoded = self._encoded(tokenizer)
            embeddings = encoded / encoded.norm(dim=-1, keepdim=True)
            scale, bias = source.logit_scale, getattr(source, "logit_bias", None)
            assert isinstance(scale, torch.Tensor)
            self.register_buffer("texts", embeddings.clone(), persistent=False)
            self.register_buffer("scale", scale.detach().exp(), persistent=False)
            self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)
        self.sigmoid = self.bias is not None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Similarities (B, T) of images (B, 3, H, W) and the texts.

        Raises
        ------
        TypeError
            If the model's image tower gives no embedding (B, D) of them.
        """
        source: Any = self._source[0]
        encoded = (
            source.get_image_features(pixel_values=images) if self._of_transformers else source.encode_image(images)
        )
        embeddings = _embeddings(encoded, "an image", len(images))
        embeddings = embeddings / embeddings.norm(dim=-1, keepdim=True)
        similarities: torch.Tensor = self.scale * (embeddings @ self.texts.T)
        return similarities if self.bias is None else similarities + self.bias

    def _encoded(self, tokenizer: Any) -> torch.Tensor:
        source: Any = self._source[0]
        texts = list(self.class_names)
        device = next(source.parameters()).device
        if not callable(tokenizer):
            raise TypeError(
                "processor: expected one with a tokenizer, which texts need: a processor of transformers, or a pair "
                f"(preprocess, tokenizer); got {type(tokenizer).__name__}"
            )
        if not self._of_transformers:
            _check_lengths(texts, tokenizer)
            return _embeddings(source.encode_text(tokenizer(texts).to(device)), "a text", len(texts))
        most: int = getattr(source.config, "text_config", source.config).max_position_embeddings
        # SigLIP was trained on texts filled up to their full length, and says something else of shorter ones.
        filled = {"padding": "max_length", "max_length": most} if hasattr(source, "logit_bias") else {"padding": True}
        tokens = tokenizer(texts, return_tensors="pt", **filled)
        # BERT's kind has positions that no token gets, of which its tokenizer knows.
        most, count = min(most, getattr(tokenizer, "model_max_length", most)), tokens["input_ids"].shape[1]
        if count > most:
            longest = max(texts, key=len)
            raise ValueError(f"texts: expected at most {most} tokens in each; got {count}, in {longest!r}. Shorten it")
        tokens = {name: value.to(device) for name, value in tokens.items()}
        return _embeddings(source.get_text_features(**tokens), "a text", len(texts))


def read_texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    """The texts, one at least.

    Raises
    ------
    TypeError, ValueError
        If they are none, or one of them is empty or comes twice.
    """
    read = (texts,) if isinstance(texts, str) else texts
    if not isinstance(read, Sequence) or not all(isinstance(text, str) for text in read):
        raise TypeError(f"texts: expected a str or a list of them; got {type(texts).__name__}")
    if not read or not all(text.strip() for text in read):
        raise ValueError(f"texts: expected one at least, and none of them empty; got {texts!r}")
    twice = next((text for text in read if list(read).count(text) > 1), None)
    if twice is not None:
        raise ValueError(f"texts: expected each once, as they are compared with each other; got {twice!r} twice")
    return tuple(read)


def _check_kind(model: nn.Module) -> bool:
    """Whether a model is of transformers, and not of open_clip or clip.

    Raises
    ------
    TypeError
        If it is none of those whose similarities are known.
    """
    if callable(getattr(model, "encode_image", None)) and callable(getattr(model, "encode_text", None)):
        if isinstance(getattr(model, "logit_scale", None), torch.Tensor):
            return False
    elif getattr(getattr(model, "config", None), "model_type", None) in _TYPES and hasattr(model, "logit_scale"):
        return True
    raise TypeError(
        "model: expected one of images and texts, which compares their embeddings by cosine: of transformers "
        f"{', '.join(_TYPES)}, or with encode_image, encode_text and logit_scale, as of open_clip; got "
        f"{type(model).__name__}. Of another give its image tower to CFCAM, and targets.ImageText of the texts' "
        "embeddings as the target"
    )


def _embeddings(encoded: Any, of: str, count: int) -> torch.Tensor:
    """Embeddings (N, D) in what a tower returned: itself, or its pooled output.

    LeGrad gives the end of the tower the states of several blocks at once, so there may be several for each.
    """
    found = encoded if isinstance(encoded, torch.Tensor) else getattr(encoded, "pooler_output", None)
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or not len(found) or len(found) % count:
        got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(encoded).__name__}"
        raise TypeError(f"model: expected an embedding ({count}, D), one for {of}; got {got}")
    return found


def _check_lengths(texts: Sequence[str], tokenizer: Any) -> None:
    """Refuse texts of which a tokenizer of open_clip's would cut something off without a word."""
    encode, most = getattr(tokenizer, "encode", None), getattr(tokenizer, "context_length", None)
    if not callable(encode) or not isinstance(most, int):
        return
    for text in texts:
        count = len(encode(text)) + 2  # one begins a text, and one ends it
        if count > most:
            raise ValueError(f"texts: expected at most {most} tokens in each; got {count}, in {text!r}. Shorten it")
