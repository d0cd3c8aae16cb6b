"""Image towers of CLIP's first code, whose blocks take tokens (N, B, C), as modules whose blocks take (B, N, C)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def batch_first(model: nn.Module) -> nn.Module:
    """The model, or where the blocks of its image tower take tokens (N, B, C) one like it whose blocks take (B, N, C).

    OpenAI's ``clip`` and early releases of open_clip have such blocks, in which no layer could be explained. The
    parameters are the model's own, and so are all modules but those that lead to an attention; all names are the same,
    and nothing of the model is changed.
    """
    visual = getattr(model, "visual", None)
    transformer = getattr(visual, "transformer", None)
    # A transformer that knows the word turns the tokens by itself.
    if not isinstance(transformer, nn.Module) or hasattr(transformer, "batch_first") or not _tokens_first(transformer):
        return model
    assert isinstance(visual, nn.Module)
    return _with(model, visual=_with(visual, transformer=_Turned(_copy(transformer))))


class _Turned(nn.Module):
    """A transformer whose blocks take (B, N, C), in the place of one that is given (N, B, C)."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        for name, child in transformer.named_children():
            self.add_module(name, child)
        self.training = transformer.training
        self._transformer = (transformer,)  # in a tuple it is no module of this one, and the names stay as they were

    def forward(self, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        returned: torch.Tensor = self._transformer[0](tokens.transpose(0, 1), *args, **kwargs)
        return returned.transpose(0, 1)


def _attentions(module: nn.Module) -> list[nn.MultiheadAttention]:
    return [inner for inner in module.modules() if isinstance(inner, nn.MultiheadAttention)]


def _tokens_first(transformer: nn.Module) -> bool:
    attentions = _attentions(transformer)
    return bool(attentions) and not any(attention.batch_first for attention in attentions)


def _copy(module: nn.Module) -> nn.Module:
    """The module with copies of all that leads to attention, whose copies take their batch first."""
    if isinstance(module, nn.MultiheadAttention):
        made = _with(module)
        made.batch_first = True  # type: ignore[assignment]
        return made
    return _with(module, **{name: _copy(child) for name, child in module.named_children() if _attentions(child)})


def _with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A copy of a module alone, with other children: parameters are the same tensors, and hooks are its own."""
    made = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            vars(made)[name] = copy.copy(value)
    made._modules.update(children)
    return made
