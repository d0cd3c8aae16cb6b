"""Gradients with respect to the attention of a vision transformer's blocks, of the score of each one's mean token."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ..targets.outputs import first_tensor, logits_of, with_first_tensor
from ..targets.request import Request, are_sound, class_indices, pinned, resolve
from . import own_thread
from .activation_hook import did_not_run, floating, of_one_graph, runs_twice, scripted_parts, tokens_first
from .gradients import all_depend, derivatives_of, gradients_of
from .guard import Survey, guarded, noted
from .laying_out import with_one
from .target_layer import INPUT_SUFFIX, TargetLayer

_SOFTMAX = {functional.softmax, torch.softmax, torch.Tensor.softmax}
_OF_ATTENTION = inspect.signature(functional.multi_head_attention_forward)


@dataclass(eq=False, frozen=True)
class _Attention:
    """One attention of a forward: what is differentiated, and how the gradient by its matrix follows from that.

    Fused attention has no matrix A that autograd knows. What it returns is A V for each head, so that the gradient by
    A is that by A V, times V transposed: exact, and the fused kernel runs as it is.

    Parameters
    ----------
    path : tuple of str
        The modules that it ran in, the outermost first.
    queries, keys : int
        How many tokens attend, and to how many.
    reached : tensor
        A V, or a projection of it, or A itself.
    by_product : callable, optional
        The gradient by A V, and V, both float32 (B, heads, tokens, d), from that by `reached`; None where this is A.
    """

    path: tuple[str, ...]
    queries: int
    keys: int
    reached: torch.Tensor
    by_product: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None

    def relevance(self, gradient: torch.Tensor, batch: int) -> torch.Tensor:
        """The mean over heads and queries of ReLU of the gradient by A: (batch, keys) float32."""
        if self.by_product is None:
            return gradient.float().reshape(batch, -1, self.keys).relu().mean(dim=1)
        with torch.autocast(gradient.device.type, enabled=False):
            products, values = self.by_product(gradient)
            products = products.reshape(batch, -1, *products.shape[-2:])
            values = values.reshape(batch, -1, *values.shape[-2:])
            values = values.repeat_interleave(products.shape[1] // values.shape[1], dim=1)  # heads may share values
            # Head by head: all matrices at once would take more than the network's activations.
            heads = zip(products.unbind(dim=1), values.unbind(dim=1))
            by_head = [(product @ value.mT).relu().mean(dim=1) for product, value in heads]
            return torch.stack(by_head).mean(dim=0)


class _Recorder(TorchFunctionMode):
    """Inside, notes each attention of this thread, however it is written; it changes none.

    While such a mode is on, torch's own modules leave the one-kernel forms of whole blocks aside, which no hook sees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.seen: list[_Attention] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What `func` returns; the mode is off in it, so that what it calls is not noted once more."""
        kwargs = kwargs or {}
        returned = func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            self._note(query.shape[-2], key.shape[-2], returned, partial(_of_product, value.detach()))
        elif func is functional.multi_head_attention_forward:
            given = _OF_ATTENTION.bind(*args, **kwargs).arguments
            self._note(len(given["query"]), len(given["key"]), returned[0], partial(_of_projected, given))
        elif func in _SOFTMAX and _is_matrix(returned, kwargs.get("dim", args[1] if len(args) > 1 else None)):
            self._note(returned.shape[-2], returned.shape[-1], returned)
        return returned

    def _note(self, queries: int, keys: int, reached: torch.Tensor, by_product: Any = None) -> None:
        if self.running:
            self.seen.append(_Attention(tuple(self.running), queries, keys, reached, by_product))

    def names(self, modules: Sequence[tuple[str, nn.Module]]) -> Iterator[RemovableHandle]:
        """Hooks that tell which of these modules are running."""
        for name, module in modules:

            def before(module: nn.Module, args: tuple[Any, ...], *, name: str = name) -> None:
                self.running.append(name)

            def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                self.running.pop()

            yield own_thread.before(module, before)
            yield own_thread.after(module, after)


def _is_matrix(weights: torch.Tensor, dim: int | None) -> bool:
    """Whether a softmax along `dim` is one over keys, of (B, heads, queries, keys) or (B * heads, tokens, tokens)."""
    square = weights.ndim == 3 and weights.shape[-1] == weights.shape[-2]
    return (square or weights.ndim > 3) and dim in (-1, weights.ndim - 1)


def _of_product(value: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient by what ``scaled_dot_product_attention`` returned is that by A V already."""
    return gradient.float(), value.float()


def _of_projected(given: dict[str, Any], gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ``multi_head_attention_forward``, which projects both V and A V; its tensors are (tokens, B, C)."""
    width, heads, value = given["embed_dim_to_check"], given["num_heads"], given["value"].detach().float()
    weight = given["v_proj_weight"] if given.get("use_separate_proj_weight") else given["in_proj_weight"][-width:]
    bias = given["in_proj_bias"]
    value = functional.linear(value, weight.detach().float(), None if bias is None else bias[-width:].detach().float())
    product = gradient.float() @ given["out_proj_weight"].detach().float()
    by_head = (part.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for part in (product, value))
    return next(by_head), next(by_head)


def attention_blocks(model: nn.Module, images: torch.Tensor) -> tuple[TargetLayer, ...]:
    """The blocks of a vision transformer, in the model's order: what each returns are its tokens.

    A block is what is repeated: the outermost module that has one of the attentions and not all of them.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is used, or all where the model takes no other number.

    Raises
    ------
    ValueError
        If no tokens attend to each other, or not all of them to all: within windows, say, or to a pooled few.
    """
    recorder, tokens, modules = _Recorder(), {}, [(name, module) for name, module in own_thread.hookable(model) if name]
    counts: Counter[str] = Counter()

    def note(module: nn.Module, args: tuple[Any, ...], output: Any, *, name: str) -> None:
        counts[name] += 1
        made = first_tensor(output)
        tokens[name] = None if made is None else tuple(made.shape)

    def run(given: torch.Tensor) -> int:
        def handles() -> Iterator[RemovableHandle]:
            yield from recorder.names(modules)
            for name, module in modules:
                yield own_thread.after(module, partial(note, name=name))

        recorder.seen.clear()
        recorder.running.clear()
        counts.clear()
        with guarded(model), own_thread.hooked(handles()), recorder:
            model(given.clone() if given.is_inference() else given)
        return len(given)

    batch = with_one(run, model, images)
    # Fewer queries than keys pool tokens: that is the head's affair.
    seen = [one for one in recorder.seen if one.queries >= one.keys]
    if not seen:
        found = f"no tokens of this model attend to each other{of_one_graph(model)}"
        raise _unfit(found, "needs the self-attention of a transformer")
    shared = len(_common([one.path for one in seen]))
    names = list(dict.fromkeys(one.path[shared] if len(one.path) > shared else one.path[-2:][0] for one in seen))
    for name in names:
        if counts[name] != 1:
            raise runs_twice(name)
        shape, keys = tokens[name], sorted({one.keys for one in seen if name in one.path})
        if shape is not None and len(shape) == 3 and shape[:2] == (*keys, batch) and shape[0] != batch:
            raise tokens_first(name, shape)
        if shape is None or len(shape) != 3 or shape[0] != batch or keys != [shape[1]]:
            raise _unfit(
                f"in {name}, which returns {shape}, they attend to {' or '.join(map(str, keys))}",
                "needs blocks that return (B, tokens, C), whose tokens attend to all: no windows, no reduced keys",
            )
    inside = tuple(f"{name}." for name in names)
    if outside := [part for part in scripted_parts(model) if not part.startswith(inside)]:
        # Blocks may be among them, and the last of those seen isn't the last one then.
        raise _unfit(f"{', '.join(outside)}: TorchScript, in which no attention is seen", "needs all blocks as modules")
    if len({tokens[name] for name in names}) > 1:
        raise _unfit(f"{names[0]} and {names[-1]} have other tokens", "needs the same at all blocks")
    named = dict(modules)
    return tuple(
        TargetLayer(named[name], name, reason=f"a block with attention among {seen[0].keys} tokens") for name in names
    )


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What all paths begin with."""
    alike = [level[0] for level in zip(*paths) if len(set(level)) == 1]
    return tuple(alike)


def _unfit(found: str, needed: str) -> ValueError:
    return ValueError(f"method: legrad {needed}; {found}. Take another method, such as 'layercam'")


class AttentionCaptured(NamedTuple):
    """What LeGrad needs to know of one forward.

    Parameters
    ----------
    relevance : dict of str to (B, T, tokens) float32 tensor
        Of each block, by name, the mean over heads and queries of ReLU of the gradient by its attention's matrix.
    logits : (B, ...) tensor
        The model's own.
    indices : (B,) or (B, T) int64 tensor, or None
    sound : mapping of str to (B,) bool tensor
        As of :class:`cfcam_gpu.hooks.capture.Captured`.
    """

    relevance: dict[str, torch.Tensor]
    logits: torch.Tensor
    indices: torch.Tensor | None
    sound: dict[str, torch.Tensor]


def capture_attention(
    model: nn.Module,
    blocks: Sequence[TargetLayer],
    images: torch.Tensor,
    request: Request,
    *,
    survey: Survey | None = None,
) -> AttentionCaptured:
    """One forward, and a backward through each block and its head: the gradient by its attention of its own score.

    The tokens of every block go on to the next one, cut off from autograd. Behind the last one, what is left of the
    model, its head, gets of every block tokens that are all their mean, so that it reads that however it pools, and
    the last one's as they are, for the model's own logits: all in one batch.

    Parameters
    ----------
    model : torch.nn.Module
    blocks : sequence of TargetLayer
        Some of those of :func:`attention_blocks`, in their order; the last is the model's last one.
    images : (B, ...) tensor
    request : Request
    survey : Survey, optional
        Of the model, where a caller has one already.

    Raises
    ------
    TypeError, ValueError
        If a block does not run, or runs twice, or the head does not take those of all blocks in one batch.
    """
    recorder, kept = _Recorder(), _Tokens(blocks)
    with guarded(model, survey) as survey:
        handles = [*kept.hooks(), *recorder.names([(block.name, block.module) for block in blocks])]  # type: ignore[misc]
        with own_thread.hooked(handles), noted(model, images), recorder:
            output = model(images.clone() if images.is_inference() else images)
        if len(kept.tokens) < len(blocks):
            raise did_not_run(blocks[len(kept.tokens)], model)
        batch, count = len(images), len(blocks) + 1
        logits = logits_of(output)
        if len(logits) != batch * count:
            raise ValueError(
                "model: legrad scores the mean token of each block and the tokens as they are in one batch, so that "
                f"behind {blocks[-1].name} it expects logits for {batch * count} images; got shape "
                f"{tuple(logits.shape)}: the model keeps the size of its batch from before, or mixes images. Take "
                "another method, such as 'layercam'"
            )
        own = logits[-batch:]
        indices = class_indices(request, own)
        of_all = pinned(request, indices)
        if of_all.scores is not None:
            of_all = replace(of_all, scores=of_all.scores * count)
        elif of_all.indices is not None:
            of_all = replace(of_all, indices=of_all.indices.repeat(count, *(1 for _ in of_all.indices.shape[1:])))
        with torch.enable_grad():
            _, scores = resolve(of_all, logits, output, spatial_dims=images.ndim - 2)
            seen = [one for one in recorder.seen if one.path and one.queries == one.keys == kept.tokens[0].shape[1]]
            reached = [one.reached for one in seen]
            found = derivatives_of(partial(gradients_of, survey, reached), scores, reached)
            around = [next(block for block in blocks if block.name == one.path[-1]) for one in seen]
            by_target = all_depend(found, around, model, images)
        by_block: dict[str, list[torch.Tensor]] = {block.name: [] for block in blocks}
        for one, gradients in zip(seen, zip(*by_target)):
            by_block[one.path[-1]].append(torch.stack([one.relevance(each, batch) for each in gradients], dim=1))
        sound = are_sound(own, indices, [score[-batch:] for score in scores])
    sound = {name: flag.to(images.device) for name, flag in sound.items()}
    relevance = {name: torch.stack(some).mean(dim=0).to(images.device) for name, some in by_block.items()}
    return AttentionCaptured(relevance, own.detach().to(images.device), indices, sound)


class _Tokens:
    """The hooks of blocks: they keep what each returns, and cut one from the other."""

    def __init__(self, blocks: Sequence[TargetLayer]) -> None:
        self.blocks = blocks
        self.tokens: list[torch.Tensor] = []

    def hooks(self) -> list[RemovableHandle]:
        """All of them."""
        first = replace(self.blocks[0], name=self.blocks[0].name + INPUT_SUFFIX, takes_input=True)
        return [first.hook(self._enter), *(block.hook(partial(self._leave, i)) for i, block in enumerate(self.blocks))]

    def _enter(self, value: Any) -> Any:
        torch.set_grad_enabled(True)  # until `guarded` ends: it restores the caller's mode
        return with_first_tensor(value, _leaf(floating(value, self.blocks[0].name)))

    def _leave(self, i: int, value: Any) -> Any:
        if len(self.tokens) != i:
            raise runs_twice(self.blocks[i].name)
        self.tokens.append(floating(value, self.blocks[i].name))
        if i + 1 < len(self.blocks):
            return with_first_tensor(value, _leaf(self.tokens[i]))
        means = [tokens.mean(dim=1, keepdim=True).expand_as(tokens) for tokens in self.tokens]
        return with_first_tensor(value, torch.cat([*means, self.tokens[i].detach()]))


def _leaf(tokens: torch.Tensor) -> torch.Tensor:
    """A copy, to which the model may write, as the beginning of a graph."""
    return tokens.detach().clone().requires_grad_()
