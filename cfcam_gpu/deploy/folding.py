"""Batch norms behind convolutions folded into these: a runtime then has one operator where it had two."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..hooks import own_thread
from ..hooks.guard import guarded
from ..hooks.layers import find
from ..targets.outputs import first_tensor, tensors_in

#: The largest difference that folding one norm may make, over the largest value: a few roundings of float32.
TOLERANCE = 1e-5
#: The same of what the model returns, whose layers add theirs up.
TOLERANCE_OF_ALL = 1e-4


@dataclass(frozen=True)
class Folded:
    """A copy of a model whose batch norms are folded where that changes nothing.

    Parameters
    ----------
    model : torch.nn.Module
    means : frozenset of str
        The names of the running means of the norms that are folded, and the identity inside :func:`skipped`.
    """

    model: nn.Module
    means: frozenset[str]


def fold(model: nn.Module, images: torch.Tensor, kept: Iterable[str]) -> Folded:
    """Fold each batch norm whose input is what a convolution returns, and nothing else reads that.

    A convolution that runs twice or that feeds two norms stays as it is, and so does one whose weight is computed in
    each forward, that is transposed, or in less than float32; so does a norm in training mode or without running
    statistics. Every pair is tried with the images, and then the whole: where it gives other values, nothing is folded.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode. It is not changed.
    images : (B, C, ...) tensor
        What the model takes; the first two are enough.
    kept : iterable of str
        Names of target layers: what these return, or what enters them, stays what it is.

    Raises
    ------
    TypeError
        If the model can't be copied.
    """
    images = images[:2]
    with guarded(model):
        expected = _outputs(model, images)
    copied = _copied(model)
    pairs = _pairs(copied, images, kept)
    folded = Folded(copied, frozenset(_fold_each(copied, images, pairs)))
    if not folded.means:
        return folded
    with skipped(folded, dict(copied.named_buffers(remove_duplicate=False))):
        found = _outputs(copied, images)
    same = all(_close(one, other, TOLERANCE_OF_ALL) for one, other in zip(found, expected, strict=True))
    return folded if same else Folded(_copied(model), frozenset())


def skipped(folded: Folded, tensors: Mapping[str, torch.Tensor]) -> TorchFunctionMode:
    """A context in which the folded norms are the identity.

    Parameters
    ----------
    folded : Folded
    tensors : mapping of str to tensor
        What the model's buffers are in there, by name.
    """
    return _Skipped([tensors[name] for name in folded.means])


class _Skipped(TorchFunctionMode):
    def __init__(self, means: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._means = {id(mean): mean for mean in means}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is F.batch_norm:
            call = _Norm.of(*args, **(kwargs or {}))
            if id(call.mean) in self._means:
                return call.input
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Norm:
    """A call of ``F.batch_norm``."""

    input: torch.Tensor
    mean: torch.Tensor | None
    variance: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    training: bool
    eps: float

    @classmethod
    def of(
        cls,
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> _Norm:
        return cls(input, running_mean, running_var, weight, bias, training, eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often operators read each tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of: Counter[int] = Counter()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.of.update(id(tensor) for tensor in torch.utils._pytree.tree_leaves((args, kwargs)))
        return function(*args, **(kwargs or {}))


class _Norms(TorchFunctionMode):
    """Notes the calls of ``F.batch_norm``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Norm] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is F.batch_norm:
            self.calls.append(_Norm.of(*args, **(kwargs or {})))
        return function(*args, **(kwargs or {}))


def _pairs(model: nn.Module, images: torch.Tensor, kept: Iterable[str]) -> dict[str, tuple[_ConvNd, _Norm]]:
    """By its running mean's name, each norm that reads a convolution's output alone, with the convolution."""
    outputs: dict[int, _ConvNd] = {}
    alive: list[Any] = []  # so that no other tensor gets the id of one that is gone
    runs: Counter[int] = Counter()
    observed: set[int] = set()

    def ran(module: _ConvNd, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        runs[id(module)] += 1
        alive.append(output)
        if isinstance(output, torch.Tensor):
            outputs[id(output)] = module
            reads.of[id(output)] = 0  # what was counted had the same id before

    def observe(value: Any) -> None:
        alive.append(tensor := first_tensor(value))
        observed.add(id(tensor))

    convolutions = [m for m in model.modules() if isinstance(m, _ConvNd) and _can_be_folded(m)]
    handles = [find(model, name).hook(observe) for name in kept]
    handles += [own_thread.after(module, partial(ran, module)) for module in convolutions]
    with torch.no_grad(), own_thread.hooked(handles), _Norms() as norms, _Reads() as reads:
        model(images)
    names = {id(tensor): name for name, tensor in model.named_buffers(remove_duplicate=False)}
    shared = Counter(id(call.mean) for call in norms.calls)
    found = {}
    for call in norms.calls:
        convolution = outputs.get(id(call.input))
        if convolution is None or call.training or runs[id(convolution)] > 1 or reads.of[id(call.input)] > 1:
            continue
        if id(call.input) not in observed and shared[id(call.mean)] == 1 and id(call.mean) in names:
            found[names[id(call.mean)]] = (convolution, call)
    return found


def _can_be_folded(module: _ConvNd) -> bool:
    # A weight that is computed in each forward, by a parametrization say, is none of the parameters.
    return not isinstance(module, _ConvTransposeNd) and {"weight", "bias"} <= module._parameters.keys()


def _fold_each(model: nn.Module, images: torch.Tensor, pairs: Mapping[str, tuple[_ConvNd, _Norm]]) -> list[str]:
    """Fold each norm into its convolution, in place, and take back what isn't right; the names of those that are."""
    folded: list[str] = []

    def tried(
        name: str, norm: _Norm, module: _ConvNd, _: nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> None:
        before = module.weight, module.bias
        _set(module, *_fused(module, norm))
        if _close(module.forward(*args), norm(output)):
            folded.append(name)
        else:
            _set(module, *before)

    handles = [own_thread.after(module, partial(tried, name, norm, module)) for name, (module, norm) in pairs.items()]
    with torch.no_grad(), own_thread.hooked(handles):
        model(images)
    return folded


def _fused(module: _ConvNd, norm: _Norm) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of the convolution with the norm behind it, computed in float64."""
    assert norm.mean is not None
    assert norm.variance is not None
    bias, scale, shift = (None if each is None else each.double() for each in (module.bias, norm.weight, norm.bias))
    weight, bias = fuse_conv_bn_weights(
        module.weight.double(), bias, norm.mean.double(), norm.variance.double(), norm.eps, scale, shift
    )
    dtype = module.weight.dtype
    return nn.Parameter(weight.to(dtype), requires_grad=False), nn.Parameter(bias.to(dtype), requires_grad=False)


def _set(module: _ConvNd, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    parameters: dict[str, Any] = module._parameters
    parameters.update(weight=weight, bias=bias)


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises
    ------
    TypeError
        If the model can't be copied.
    """
    # What a module keeps of an earlier forward, a table of biases, say, may hang on autograd's graph: no copy can.
    kept = [value for module in model.modules() for value in _tensors(vars(module)) if value.grad_fn is not None]
    try:
        return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in kept})
    except Exception as error:  # modules may hold what can't be copied, and raise anything
        raise TypeError(
            f"model: expected one that copy.deepcopy copies, since its batch norms are folded in a copy; {error}"
        ) from error


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in the values of a dict, and in dicts, lists and tuples among them."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, (list, tuple)) else []


def _outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [tensor.clone() for tensor in tensors_in(model(images)) if tensor.is_floating_point()]


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    if found.shape != expected.shape:
        return False
    return not expected.numel() or bool((found - expected).abs().max() <= tolerance * expected.abs().max())
