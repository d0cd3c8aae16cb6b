"""LibraGrad: gradients that are complete on transformers, by other backward paths of the same forward.

A function is FullGrad-complete where its value is the sum of each input times its gradient, plus each bias times its
own. Linear maps and ReLU are; a product counts its value twice, a normalisation not at all, and a softmax or GELU
something in between. Mehri, Baghshah and Pilehvar, "LibraGrad: Balancing Gradient Flow for Universally Better Vision
Transformer Attributions", CVPR 2025 (arXiv:2411.16760), make them complete. What weighs is a constant: the denominator
of a normalisation, an activation's gate, attention's weights, and whatever is computed from these alone before it
multiplies features (see :mod:`cfcam_gpu.hooks.libragrad_ranks`). Features that multiply each other get half of the
gradient each.

The same is done here to whatever else is homogeneous. Activations that neither are x times a gate nor weigh anything,
tanh or ELU say, keep their own gradient, as does a softmax that is the model's output. In a product of features with
Hardtanh or a clamp of them, a hard swish that is written out, those are the gate and a constant, although they are
piecewise linear. The authors differentiate the class's probability; here it is what is explained, which is
a class's logit unless a callable says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from .autograd_graph import depends, node_of
from .libragrad_graph import refuse_missed, scaled, with_value
from .libragrad_norms import NORMS, Norm
from .libragrad_ranks import Rank, Ranks

#: What a function of torch's that is written in Python asks, before anything else, to know whether a mode is there.
_QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")

#: Activations x g(x), and g(0), where the quotient of both sides has no value.
_SELF_GATED = {"gelu": 0.5, "silu": 0.5, "hardswish": 0.5, "mish": 0.6}

#: Products, and the names of what they multiply.
_PRODUCTS = {
    "addbmm": ("input", "batch1", "batch2"),
    "addcmul": ("input", "tensor1", "tensor2"),
    "addmm": ("input", "mat1", "mat2"),
    "addmv": ("input", "mat", "vec"),
    "addr": ("input", "vec1", "vec2"),
    "baddbmm": ("input", "batch1", "batch2"),
    "bmm": ("input", "mat2"),
    "conv1d": ("input", "weight"),
    "conv2d": ("input", "weight"),
    "conv3d": ("input", "weight"),
    "cross": ("input", "other"),
    "dot": ("input", "tensor"),
    "inner": ("input", "other"),
    "linear": ("input", "weight"),
    "matmul": ("input", "other"),
    "mm": ("input", "mat2"),
    "mul": ("input", "other"),
    "multiply": ("input", "other"),
    "mv": ("input", "vec"),
    "outer": ("input", "vec2"),
    "tensordot": ("a", "b"),
    "vdot": ("input", "other"),
}

#: Quotients.
_QUOTIENTS = {
    "addcdiv": ("input", "tensor1", "tensor2"),
    "div": ("input", "other"),
    "divide": ("input", "other"),
    "true_divide": ("input", "other"),
}

#: Means, and at the last place what weighs them: shares of two ends, and where an image is sampled.
_WEIGHED = {
    "grid_sampler": ("input", "grid"),
    "lerp": ("input", "end", "weight"),
}

#: Functions of which f(a x) is f(x) times a to the power of this; of a power its exponent is.
_DEGREES = {"float_power": None, "pow": None, "sqrt": 0.5, "square": 2.0, "var": 2.0}


class LibraGrad(TorchFunctionMode):
    """While it is on, what this thread runs records backward paths that are complete.

    A mode of torch's is the calling thread's alone, and autograd takes it along to threads that run a backward, where a
    checkpoint runs modules again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Node, bool] = {}
        self._ranks = Ranks(self._known)
        self._inside: set[FunctionType] = set()
        self._on = False

    def begin(self, activation: torch.Tensor) -> None:
        """Turn it on for what is computed from `activation`, a leaf, until :meth:`forward` ends.

        What runs before records no graph; with a mode on, torch would not take its fused operators there, which round
        otherwise.
        """
        self._known[node_of(activation)] = True
        if not self._on:
            self._switch_on()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Afterwards it is off, however the forward ended."""
        try:
            yield
        finally:
            self._switch_off()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside it is on, for a backward that runs parts of the forward again."""
        self._switch_on()
        try:
            yield
        finally:
            self._switch_off()

    def check(self, output: list[torch.Tensor], model: nn.Module, layer: str) -> None:
        """Refuse a forward from a layer in which something ran past the mode, or where it is unclear what weighs.

        Raises
        ------
        ValueError
            That names the operation, and the modules that may be meant.
        """
        refuse_missed(output, self._known, self._ranks, model, layer)

    def _switch_on(self) -> None:
        # Below all others: a block of the model's own that began before would, at its end, take off the uppermost one.
        above = _taken_off(None)
        _put_on([self, *above])
        self._on = True

    def _switch_off(self) -> None:
        if self._on:
            _put_on(_taken_off(self))
            self._on = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` with other backward paths."""
        kwargs = dict(kwargs or {})
        rule = _RULES.get(func)
        if rule is not None and torch.is_grad_enabled():
            if not args and "input" in kwargs:
                args = (kwargs.pop("input"),)
            return rule(self, func, *args, **kwargs)
        if func not in self._inside and isinstance(func, FunctionType) and _asks(func):
            self._inside.add(func)  # one that calls the C function of its own name comes here again under that
            try:
                with self:
                    return _without_question(func)(*args, **kwargs)
            finally:
                self._inside.discard(func)
        return func(*args, **kwargs)

    def depends(self, value: object) -> bool:
        """Whether a value is a tensor that hangs on the activation, and not on parameters alone."""
        return isinstance(value, torch.Tensor) and depends(value, self._known)

    def _product(self, func: Any, *args: Any, names: tuple[str, ...], first: int, **kwargs: Any) -> Any:
        """Factors that weigh are constants; those that are left share the gradient."""
        args = _placed(args, kwargs, names)
        return func(*args[:first], *self.shared(args[first : len(names)]), *args[len(names) :], **kwargs)

    def shared(self, factors: Any) -> list[Any]:
        """The factors of a product, with their part in its gradient."""
        dependent = [i for i, factor in enumerate(factors) if self.depends(factor)]
        if len(dependent) < 2:
            return list(factors)
        ranks = {i: self._ranks.of(factors[i]) for i in dependent}
        lowest = min(ranks.values())
        # One that is unknown keeps its part, so that the graph has it and `check` can name it.
        weighing = {i for i in dependent if ranks[i] > lowest and ranks[i] != Rank.UNKNOWN}
        share = len(dependent) - len(weighing)
        return [
            factor.detach() if i in weighing else scaled(factor, 1 / share) if i in ranks and share > 1 else factor
            for i, factor in enumerate(factors)
        ]

    def _einsum(self, func: Any, equation: str, *operands: Any, **kwargs: Any) -> Any:
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        return func(equation, self.shared(operands), **kwargs)

    def _quotient(self, func: Any, *args: Any, names: tuple[str, ...], **kwargs: Any) -> Any:
        """The denominator is a constant, unless it alone depends: a reciprocal is what weighs in a product."""
        args = _placed(args, kwargs, names)
        *first, numerator, denominator = args[: len(names)]
        if self.depends(numerator) and self.depends(denominator):
            denominator = denominator.detach()
        return func(*first, numerator, denominator, *args[len(names) :], **kwargs)

    def _weighed(self, func: Any, *args: Any, names: tuple[str, ...], **kwargs: Any) -> Any:
        """What weighs is a constant."""
        args = _placed(args, kwargs, names)
        *features, weight = args[: len(names)]
        if self.depends(weight) and any(map(self.depends, features)):
            weight = weight.detach()
        return func(*features, weight, *args[len(names) :], **kwargs)

    def _power(self, func: Any, value: Any, *args: Any, degree: float | None, **kwargs: Any) -> Any:
        """The gradient over the degree; a negative power is a denominator, which weighs."""
        if not self.depends(value):
            return func(value, *args, **kwargs)
        exponent = degree if degree is not None else args[0] if args else kwargs["exponent"]
        if isinstance(exponent, torch.Tensor) and not self.depends(exponent):
            with torch.no_grad():
                result = func(value, *args, **kwargs)
                slope = value.pow(exponent - 1) * torch.where(exponent > 0, 1.0, exponent)
            return with_value(result, value * slope)
        if isinstance(exponent, (int, float)) and exponent > 0:
            value = scaled(value, 1 / exponent)
        return func(value, *args, **kwargs)

    def _self_gated(self, func: Any, value: Any, *args: Any, at_zero: float, **kwargs: Any) -> Any:
        if not self.depends(value):
            return func(value, *args, **kwargs)
        with torch.no_grad():
            result = func(value, *args, **kwargs)
            gate = torch.where(value == 0, at_zero, result / value)
        return with_value(result, value * gate)

    def _glu(self, func: Any, value: Any, dim: int = -1) -> Any:
        if not self.depends(value):
            return func(value, dim)
        features, gate = value.chunk(2, dim)
        with torch.no_grad():
            result, gate = func(value, dim), gate.sigmoid()
        return with_value(result, features * gate)

    def _attention(
        self,
        func: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: Any,
        attn_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Its weights are constants, so that the gradient goes to the values alone, by any fused kernel."""
        if not any(map(self.depends, (query, key, attn_mask))):
            return func(query, key, value, attn_mask, *args, **kwargs)
        if self.depends(attn_mask):
            # As a tensor that needs a gradient, since torch chooses its kernel by that, too.
            attn_mask = scaled(attn_mask, 0.0)
            self._known[node_of(attn_mask)] = False
        return func(query.detach(), key.detach(), value, attn_mask, *args, **kwargs)

    def _norm(self, func: Any, value: torch.Tensor, *args: Any, read: Callable[..., Norm | None], **kwargs: Any) -> Any:
        """Its denominator is a constant, and what is left is linear."""
        norm = read(value, *args, **kwargs)
        if norm is None or not self.depends(value):
            return func(value, *args, **kwargs)
        with torch.no_grad():
            result = func(value, *args, **kwargs)
        return with_value(result, norm.linear(value))

    def _cosine(self, func: Any, x1: torch.Tensor, x2: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
        """A product over the lengths of both, which are constants."""
        if not self.depends(x1) and not self.depends(x2):
            return func(x1, x2, dim, eps)
        with torch.no_grad():
            result = func(x1, x2, dim, eps)
            lengths = [torch.linalg.vector_norm(each, dim=dim).clamp_min(eps) for each in (x1, x2)]
        one, other = self.shared([x1, x2])
        return with_value(result, (one * other).sum(dim) / (lengths[0] * lengths[1]))

    def _in_place(self, func: Any, value: torch.Tensor, *args: Any, rule: Any, plain: Any, **kwargs: Any) -> Any:
        """The rule of an operator for the one that writes to its first argument."""
        if not any(map(self.depends, (value, *args, *kwargs.values()))):
            return func(value, *args, **kwargs)
        return value.copy_(rule(self, plain, value.clone(), *args, **kwargs))


def _taken_off(down_to: TorchFunctionMode | None) -> list[TorchFunctionMode]:
    """The modes above one, from below, which come off with it; None takes all."""
    above: list[TorchFunctionMode] = []
    while torch._C._len_torch_function_stack():
        mode = _pop_mode()  # type: ignore[no-untyped-call]
        if mode is down_to:
            break
        above.insert(0, mode)
    return above


def _put_on(modes: list[TorchFunctionMode]) -> None:
    for mode in modes:
        _push_mode(mode)  # type: ignore[no-untyped-call]


def _placed(args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    """The arguments called `names` by their places, those taken out of `kwargs` that were given by name."""
    return (*args, *(kwargs.pop(name) for name in names[len(args) :]))


def _asks(func: FunctionType) -> bool:
    """Whether a function in Python hands itself over to a mode, so that what it calls is not seen."""
    return any(name in func.__code__.co_names and name in func.__globals__ for name in _QUESTIONS)


def _without_question(func: FunctionType) -> FunctionType:
    """The same function, that does not ask for a mode; what it calls does."""
    blind = func.__globals__ | dict.fromkeys(_QUESTIONS, lambda *tensors: False)
    copy = FunctionType(func.__code__, blind, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _rules() -> dict[Any, Any]:
    by_name: dict[str, Any] = {
        "bilinear": partial(LibraGrad._product, names=("input1", "input2", "weight"), first=0),
        "cosine_similarity": LibraGrad._cosine,
        "einsum": LibraGrad._einsum,
        "glu": LibraGrad._glu,
        "scaled_dot_product_attention": LibraGrad._attention,
    }
    for name, read in NORMS.items():
        by_name[name] = partial(LibraGrad._norm, read=read)
    for name, names in _PRODUCTS.items():
        by_name[name] = partial(LibraGrad._product, names=names, first=len(names) - 2)
    for name, names in _WEIGHED.items():
        by_name[name] = partial(LibraGrad._weighed, names=names)
    for name, names in _QUOTIENTS.items():
        by_name[name] = partial(LibraGrad._quotient, names=names)
    for name, degree in _DEGREES.items():
        by_name[name] = partial(LibraGrad._power, degree=degree)
    for name, at_zero in _SELF_GATED.items():
        by_name[name] = partial(LibraGrad._self_gated, at_zero=at_zero)
    rules = {}
    for name, rule in by_name.items():
        for owner in (torch, torch._C._VariableFunctions, torch._C.TensorBase, torch._C._nn, torch.linalg):
            plain, writing = getattr(owner, name, None), getattr(owner, name + "_", None)
            if plain is not None:
                rules[plain] = rule
                if writing is not None:
                    rules[writing] = partial(LibraGrad._in_place, rule=rule, plain=plain)
    return rules


_RULES = _rules()
