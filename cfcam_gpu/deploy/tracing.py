"""A model's forward and the backward of its head written out, as one graph of operators without autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..hooks import own_thread
from ..hooks.guard import guarded
from ..hooks.layers import find
from ..hooks.libragrad import LibraGrad
from ..hooks.target_layer import TargetLayer
from ..targets.outputs import first_tensor, logits_of, with_first_tensor
from . import folding, operators, untraceable
from .graph_cleaning import clean

#: What the rest of the network hangs on, made of a layer's place among the target layers and its activation.
_Change: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]
#: A forward of images, to the logits and what was made of the activations.
_Run: TypeAlias = Callable[[torch.Tensor, _Change], tuple[torch.Tensor, list[torch.Tensor]]]
#: From the gradient of the logits to those of the activations.
_Backward: TypeAlias = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Head:
    """What is differentiated.

    Parameters
    ----------
    contrast : float
        As of :class:`cfcam_gpu.Config`.
    classes : int
        T, how many classes of each image.
    given : bool
        Whether the classes are an input of the graph.
    segment : int or None
        A class of logits (B, K, *spatial): its mean over where it is predicted is what is explained.
    """

    contrast: float
    classes: int = 1
    given: bool = False
    segment: int | None = None

    def chosen(self, logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """The classes (B, T) int64: those given, where they are not negative, and the predicted one."""
        if self.segment is not None:
            return logits.flatten(1)[:, :1].long() * 0 + self.segment
        predicted = logits.argmax(dim=1, keepdim=True)
        return predicted if target is None else torch.where(target < 0, predicted, target)

    def scores(self, logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Of each class of (B, T) its logit, (B, T)."""
        if self.segment is not None:
            return logits[:, self.segment].flatten(1).mean(dim=1, keepdim=True)
        return logits.gather(1, chosen)

    def cotangents(self, logits: torch.Tensor, chosen: torch.Tensor) -> list[torch.Tensor]:
        """The gradient of each of T scores with respect to float32 logits, as :func:`cfcam_gpu.targets.resolve` has it.

        That of a class's logit minus `contrast` times the log-sum-exp of its rivals is 1 at the class and minus
        `contrast` times the softmax of the rivals at these.
        """
        if self.segment is not None:
            return [_of_segment(logits, self.segment)]
        found = []
        for column in chosen.unbind(dim=1):
            one_hot = torch.zeros_like(logits).scatter(1, column[:, None], 1.0)
            if self.contrast and logits.shape[1] > 1:
                rivals = logits.masked_fill(one_hot > 0, -torch.inf)
                one_hot = one_hot - self.contrast * rivals.softmax(dim=1)
            found.append(one_hot)
        return found


def _of_segment(logits: torch.Tensor, index: int) -> torch.Tensor:
    """The gradient of a class's mean logit over where it is predicted, or where a single logit is positive."""
    classes, axes = logits.shape[1], logits.ndim - 2
    inside = torch.gt(logits, 0) if classes == 1 else torch.eq(logits.argmax(dim=1, keepdim=True), index)
    of_image = inside.float()
    share = of_image / of_image.flatten(1).sum(dim=1).clamp_min(1.0).reshape(-1, 1, *[1] * axes)
    return share * torch.eq(torch.arange(classes), index).float().reshape(1, -1, *[1] * axes)


class Traced(nn.Module):
    """The graph with the weights it was traced with: images, and classes where they are an input, to tensors.

    These are the logits (B, K, ...) float32, the classes (B, T), then of each layer its activation (B, C, *spatial),
    then of each target and layer the gradient.
    """

    def __init__(self, graph: fx.GraphModule, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph
        self.names = list(weights)
        for i, weight in enumerate(weights.values()):
            self.register_buffer(f"weight_{i}", weight)

    def forward(self, images: torch.Tensor, *target: torch.Tensor) -> list[torch.Tensor]:
        """See the class."""
        weights = [getattr(self, f"weight_{i}") for i in range(len(self.names))]
        found: list[torch.Tensor] = self.graph(weights, images, *target)
        return found


def trace(
    model: nn.Module,
    layers: Sequence[TargetLayer],
    images: torch.Tensor,
    head: Head,
    *,
    libragrad: bool,
    any_batch: bool,
    tensorrt: bool,
) -> Traced:
    """Trace a model's forward and the backward from its scores to the layers.

    What is differentiated is the rest of the network with respect to each layer's activation: nothing before the layer
    takes part, and the model is not cut.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode, on the host. Nothing of it is changed.
    layers : sequence of TargetLayer
        With their layouts for such images.
    images : (B, C, ...) tensor
        In the dtype that the model takes; the graph's are float32. Of the batch's size, or of any where `any_batch`.
    head : Head
    libragrad : bool
        Whether the backward is that of :mod:`cfcam_gpu.hooks.libragrad`.
    any_batch : bool
        Whether the batch's size is left open.
    tensorrt : bool
        Only operators that TensorRT has.

    Raises
    ------
    ValueError
        If the model does what no graph can hold, or has an operator that no ONNX operator stands for; the message names
        it and the module.
    """
    folded = folding.fold(model, images, [layer.name for layer in layers])
    copies = [replace(layer, module=find(folded.model, layer.name).module) for layer in layers]
    if any_batch:
        images = _with_batch(images)
    weights = _weights(folded.model)
    # Of two images: a batch that a file is fixed to may be large.
    shapes = [_Added.of(tensor, len(images[:2])) for tensor in _activations(folded.model, copies, images[:2])]

    def explained(values: Sequence[torch.Tensor], batch: torch.Tensor, *target: torch.Tensor) -> list[torch.Tensor]:
        named = dict(zip(weights, values))
        with folding.skipped(folded, named):
            run = partial(_run, folded.model, named, copies, images.dtype)
            found = _by_libragrad(run, batch) if libragrad else _by_functions(run, shapes, batch)
            return _of_targets(copies, head, *found, *target)

    inputs = [images.float()]
    if head.given:
        inputs.append(torch.zeros(len(images), head.classes, dtype=torch.int64))
    environment = ShapeEnv(duck_shape=False)
    try:
        graph = _traced(explained, list(weights.values()), inputs, environment, any_batch=any_batch, tensorrt=tensorrt)
    except Exception as error:  # of any class: the model's own code runs on tensors without values
        raise untraceable.refusal(error, folded.model, any_batch=any_batch) from error
    untraceable.check_batch(environment)
    clean(graph)
    operators.simplify(graph)
    operators.check(graph, folded.model, images, tensorrt=tensorrt)
    return Traced(graph, weights)


class _Added(NamedTuple):
    """The zeros that are added to an activation: of `rows` for each image, each of a shape."""

    rows: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, activation: torch.Tensor, batch: int) -> _Added:
        return cls(len(activation) // batch, tuple(activation.shape[1:]), activation.dtype)

    def zeros(self, images: torch.Tensor) -> torch.Tensor:
        return images.new_zeros(images.shape[0] * self.rows, *self.shape, dtype=self.dtype)


def _with_batch(images: torch.Tensor) -> torch.Tensor:
    """As many images as no other axis is long: two axes of one length would be taken for one."""
    taken = set(images.shape[1:])
    size = next(n for n in range(3, max(taken) + 4) if n not in taken)
    return images[:1].expand(size, *images.shape[1:]).contiguous()


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by all their names."""
    found = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in found.items()}


def _activations(model: nn.Module, layers: Sequence[TargetLayer], images: torch.Tensor) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}

    def note(i: int, value: Any) -> None:
        tensor = first_tensor(value)
        assert tensor is not None  # the library has explained these layers
        found[i] = tensor

    handles = (layer.hook(partial(note, i)) for i, layer in enumerate(layers))
    with guarded(model), own_thread.hooked(handles):
        model(images)
    if missing := [layer.name for i, layer in enumerate(layers) if i not in found]:
        raise ValueError(
            f"model: a copy of it does not come to {missing[0]}: it holds functions of the very modules that it was "
            "made with, such as a lambda over them; call the modules in forward by their attributes"
        )
    return [found[i] for i in range(len(layers))]


def _run(
    model: nn.Module,
    weights: Mapping[str, torch.Tensor],
    layers: Sequence[TargetLayer],
    dtype: torch.dtype,
    images: torch.Tensor,
    change: _Change,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits, and of each layer what `change` made of its activation; the model takes images of `dtype`."""
    reached: dict[int, torch.Tensor] = {}

    def replaced(i: int, value: Any) -> Any:
        activation = first_tensor(value)
        assert activation is not None  # the library has explained these layers
        # Copies: the model may write to what it gave the layer, or to what it gets back.
        reached[i] = change(i, activation.clone())
        return with_first_tensor(value, reached[i].clone())

    handles = (layer.hook(partial(replaced, i)) for i, layer in enumerate(layers))
    with own_thread.hooked(handles), operators.PlainForward():
        logits = logits_of(functional_call(model, dict(weights), (images.to(dtype),)))
    return logits, [reached[i] for i in range(len(layers))]


def _by_functions(
    run: _Run, added: Sequence[_Added], images: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor], _Backward]:
    """Logits, activations, and the backward: with respect to zeros that are added to the activations."""

    def of_added(images: torch.Tensor, *zeros: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        logits, reached = run(images, lambda i, activation: activation + zeros[i])
        return logits, (logits, *reached)

    zeros = [each.zeros(images) for each in added]
    # The images are an argument, too, so that what the model writes in place before the first layer becomes functional.
    functional = partial(functionalize(of_added), images)
    # torch declares what it returns without `has_aux`.
    _, backward, (logits, *activations) = vjp(functional, *zeros, has_aux=True)  # type: ignore[misc]
    return logits, activations, backward


def _by_libragrad(run: _Run, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], _Backward]:
    """The same by the graph that autograd records, which LibraGrad reads on its way."""
    libra = LibraGrad()

    def change(i: int, activation: torch.Tensor) -> torch.Tensor:
        if i == 0:
            libra.begin(activation.requires_grad_())
        return activation

    # A model may write to what its own backward needs.
    with torch.enable_grad(), saved_tensors_hooks(torch.clone, lambda tensor: tensor), libra.forward():
        logits, reached = run(images.clone(), change)

    def backward(cotangent: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.autograd.grad(logits, reached, cotangent, retain_graph=True)

    return logits.detach(), [each.detach() for each in reached], backward


def _of_targets(
    layers: Sequence[TargetLayer],
    head: Head,
    logits: torch.Tensor,
    activations: Sequence[torch.Tensor],
    backward: _Backward,
    target: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """What :class:`Traced` returns."""
    in_float32 = logits.float()
    chosen = head.chosen(in_float32, target)
    found = [in_float32, chosen, *_as_maps(layers, activations)]
    for cotangent in head.cotangents(in_float32, chosen):
        found += _as_maps(layers, backward(cotangent.to(logits.dtype)))
    return found


def _as_maps(layers: Sequence[TargetLayer], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [layer.layout.to_maps(tensor).float() for layer, tensor in zip(layers, tensors) if layer.layout is not None]


def _traced(
    function: Callable[..., list[torch.Tensor]],
    weights: list[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    environment: ShapeEnv,
    *,
    any_batch: bool,
    tensorrt: bool,
) -> fx.GraphModule:
    """The graph of a function of weights and inputs, which no value of these goes into."""
    mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    fake_weights = [mode.from_tensor(weight, static_shapes=True) for weight in weights]
    images, *target = inputs
    sizes = [DimDynamic.DYNAMIC if any_batch and axis == 0 else DimDynamic.STATIC for axis in range(images.ndim)]
    fake: list[torch.Tensor] = [
        mode.from_tensor(images, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
    ]
    with mode:  # the batch's size is one symbol for both inputs
        fake += [each.new_empty(fake[0].shape[0], *each.shape[1:], device="cpu") for each in target]
    table = operators.decompositions(tensorrt=tensorrt)
    with mode, enable_python_dispatcher(), _plain_attention():
        graph = make_fx(function, table, tracing_mode="real", _allow_non_fake_inputs=True)(fake_weights, *fake)
        if operators.is_functional(graph):
            return graph
        # Some derivatives write to what they have just made.
        functional = functionalize(graph, remove="mutations")
        return make_fx(functional, table, tracing_mode="real", _allow_non_fake_inputs=True)(fake_weights, *fake)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Inside, no fused kernel stands for attention: its backward is no operator of any runtime."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
