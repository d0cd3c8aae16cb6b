"""What keeps the user's model as it was during a call."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import UninitializedParameter
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd


def unwrap(model: nn.Module) -> nn.Module:
    """The module itself inside ``DataParallel`` or ``torch.compile``.

    Replicas run in threads and on devices of their own, and compiled code does not call hooks added later: the module
    inside serves the whole batch on its own device instead.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def check_model(model: object) -> nn.Module:
    """The module to explain, or an error that names what can't be explained about `model`.

    Raises
    ------
    TypeError
        If `model` is no torch module.
    ValueError
        If its parameters were made under ``torch.inference_mode``, which autograd can't touch, or some of them have no
        values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module; got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model: a TorchScript module takes no hooks; give the torch.nn.Module it was made from")
    module = unwrap(model)
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(
                f"model: parameter {name} of a lazy module has no values yet; call the model once on images first"
            )
        if parameter.is_inference():
            raise ValueError(
                f"model: parameter {name} was made under torch.inference_mode, so no gradient can pass it; build the "
                "model outside of it"
            )
    without = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if without and len(without) < sum(1 for _ in module.parameters()):
        raise ValueError(
            f"model: {len(without)} of its parameters are on the meta device, {without[0]} the first: they are "
            "offloaded or were not loaded; load the whole model onto its devices (no 'cpu' or 'disk' in device_map)"
        )
    return module


class Shared:
    """A setting that calls which overlap share: made by the first, undone by the last.

    Parameters
    ----------
    make : callable
        Returns a context manager that has the setting inside, and the one before afterwards. Its arguments say of what,
        where the process has several.
    """

    def __init__(self, make: Callable[..., AbstractContextManager[Any]]) -> None:
        self._make = make
        self._lock = Lock()
        self._held: dict[Any, ExitStack] = {}
        self._users: Counter[Any] = Counter()

    @contextmanager
    def __call__(self, *of: Any) -> Iterator[None]:
        """Inside, the setting holds."""
        with self._lock:
            if of not in self._held:
                stack = ExitStack()
                stack.enter_context(self._make(*of))
                self._held[of] = stack
            self._users[of] += 1
        try:
            yield
        finally:
            with self._lock:
                self._users[of] -= 1
                if not self._users[of]:
                    del self._users[of]
                    self._held.pop(of).close()


class _Kept(NamedTuple):
    """A module as it was before a call.

    Parameters
    ----------
    buffers : dict
        Name to the module's own tensor, or None.
    copies : dict
        Name to what is in that one's place during the call.
    attributes : dict
        What else the module holds.
    """

    buffers: dict[str, torch.Tensor | None]
    copies: dict[str, torch.Tensor | None]
    attributes: dict[str, Any]


class _Copies:
    """Copies in the place of buffers, so that what a forward does to them it does to the copies.

    Nothing touches the module's own tensors meanwhile: neither their values nor their shapes, nor the counters by which
    autograd tells that a backward, which the caller may have still to run, has what it needs. Calls that overlap share
    a module's copies: the first makes them, the last puts the module's own tensors back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[nn.Module, _Kept] = {}
        self._users: Counter[nn.Module] = Counter()

    @contextmanager
    def __call__(self, modules: list[nn.Module]) -> Iterator[None]:
        """Inside, the buffers of `modules` are copies."""
        entered: list[nn.Module] = []
        try:
            with self._lock:
                copies: dict[int, torch.Tensor] = {}
                for module in modules:
                    if module not in self._kept:
                        self._kept[module] = _with_copies(module, copies)
                    self._users[module] += 1
                    entered.append(module)
            yield
        finally:
            with self._lock:
                for module in entered:
                    self._users[module] -= 1
                    if not self._users[module]:
                        del self._users[module]
                        _put_back(module, self._kept.pop(module))


def _with_copies(module: nn.Module, copies: dict[int, torch.Tensor]) -> _Kept:
    """Put copies of a module's buffers in their place; `copies` has those made already, by the ids of what they are of.

    A tensor may be a buffer of several modules, one of which may write what another reads.
    """
    own = dict(module._buffers.items())
    for buffer in own.values():
        if buffer is not None and id(buffer) not in copies:
            copies[id(buffer)] = buffer.clone()
    placed = {name: buffer if buffer is None else copies[id(buffer)] for name, buffer in own.items()}
    not_saved = set(module._non_persistent_buffers_set)
    kept = _Kept(own, placed, vars(module) | {"_non_persistent_buffers_set": not_saved})
    for name, copy in placed.items():
        module._buffers[name] = copy
    return kept


def _put_back(module: nn.Module, kept: _Kept) -> None:
    """Give a module its own buffers again, and what it noted beside them where they were changed.

    A module may note in a number how long the table is that it made a buffer: the two go together.
    """
    buffers, attributes = module._buffers, vars(module)
    same_names = list(buffers.keys()) == list(kept.buffers)
    if (
        not same_names
        or any(buffers[name] is not copy or (copy is not None and copy._version) for name, copy in kept.copies.items())
        or attributes["_non_persistent_buffers_set"] != kept.attributes["_non_persistent_buffers_set"]
    ):
        for name in attributes.keys() - kept.attributes.keys():
            del attributes[name]
        attributes.update(kept.attributes)
    if not same_names:
        buffers.clear()  # so that they come in their order, too
    for name, buffer in kept.buffers.items():
        buffers[name] = buffer


_copied = _Copies()


@contextmanager
def _force_eager() -> Iterator[None]:
    """Inside, what is compiled runs as it is written; afterwards the user's stance holds, changed meanwhile or not."""
    ours = torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        if torch._dynamo.eval_frame._stance is ours.stance:
            ours.__exit__(None, None, None)
        # A block of the user's that began meanwhile, in another thread, will end by setting the stance it found, ours:
        # from now on that one says what the stance before it said.
        vars(ours.stance).update(vars(ours.prev))


_eager = Shared(_force_eager)


class Survey(NamedTuple):
    """What a call asks of all the modules of a model.

    Parameters
    ----------
    modules : set of torch.nn.Module
    training : list of torch.nn.Module
        Normalisation layers in training mode, whose running statistics a forward changes.
    random : list of torch.nn.Module
        Those in training mode that drop at random, or draw a slope.
    writable : list of torch.nn.Module
        Those with buffers that a forward may change.
    compiled : bool
        Whether the model or a part of it is compiled.
    """

    modules: set[nn.Module]
    training: list[nn.Module]
    random: list[nn.Module]
    writable: list[nn.Module]
    compiled: bool

    def watched(self) -> bool:
        """Whether code of the user's watches the backward."""
        return any(module._backward_hooks or module._backward_pre_hooks for module in self.modules)


def survey_of(model: nn.Module) -> Survey:
    """Look at each module once.

    A call does so once: small batches on a GPU wait for the host, and one walk by ``model.modules()``, generators
    inside each other, takes it as long as several layers.
    """
    modules: set[nn.Module] = set()
    training: list[nn.Module] = []
    random: list[nn.Module] = []
    writable: list[nn.Module] = []
    compiled = False
    ahead: list[nn.Module | None] = [model]
    while ahead:
        module = ahead.pop()
        if module is None or module in modules:  # a part that a model lacks may be registered as None
            continue
        modules.add(module)
        # Most have no buffers, and most that do are normalisation layers, which write theirs in training alone. One
        # with more than torch's three is somebody's own, and may count something. The frozen ones are torchvision's,
        # timm's and transformers'.
        if (
            (buffers := module._buffers)
            and (module.training or len(buffers) > 3 or not isinstance(module, _NormBase))
            and "FrozenBatchNorm" not in type(module).__name__
        ):
            writable.append(module)
        if module.training:
            if isinstance(module, _NormBase) and module.track_running_stats:
                training.append(module)
            elif _is_random(module):
                random.append(module)
        if parts := module._modules:
            ahead.extend(parts.values())
        if module._compiled_call_impl is not None or "_orig_mod" in parts:
            compiled = True
    return Survey(modules, training, random, writable, compiled)


def _is_random(module: nn.Module) -> bool:
    """Whether a module in training mode drops at random, or draws a slope.

    Libraries' own modules are known by their names, and those that call the function by the names of their numbers.
    """
    if isinstance(module, nn.RReLU):
        return module.lower < module.upper
    if isinstance(module, nn.RNNBase) and module.num_layers == 1:
        return False  # it drops between its layers alone
    kind = type(module).__name__.lower()
    drops = isinstance(module, _DropoutNd) or "drop" in kind or "stochasticdepth" in kind
    return any(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1
        for name, value in vars(module).items()
        if "drop" in name.lower() or (drops and name in ("p", "prob"))
    )


def warn_of_training(model: nn.Module) -> Survey:
    """Warn, on the line of the user's that called, of layers in training mode whose results are not the image's alone.

    Returns what was seen of the model, for :func:`guarded`.
    """
    survey = survey_of(model)
    told = []
    if survey.training:
        told.append(
            f"{len(survey.training)} normalisation layers are in training mode, so an image's result depends on the "
            "rest of its batch"
        )
    if survey.random:
        told.append(
            f"{len(survey.random)} modules in training mode drop at random ({type(survey.random[0]).__name__}, for "
            "one), so each call gives another result"
        )
    if not told:
        return survey
    warn(f"model: {'; '.join(told)}; call model.eval() first")
    return survey


def warn(text: str) -> None:
    """Warn on the line of the user's that called."""
    package, level, frame = __name__.partition(".")[0], 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)


@contextmanager
def guarded(model: nn.Module, survey: Survey | None = None) -> Iterator[Survey]:
    """No graph is recorded inside, and buffers come out as they went in.

    The caller's grad and inference modes return afterwards. A model in training mode is used as it is. What a forward
    writes to a buffer, or puts in its place, is gone afterwards; a module that has none before and registers its first
    one keeps that. Compiled parts run as the modules that they were made from: the compiler would trace the hooks, or
    not call them. torch knows one stance for the whole process, so calls that overlap share it; what other threads have
    compiled runs as it is written, too, for that while. It holds in the backward, too, where a checkpoint runs modules
    again.

    Parameters
    ----------
    model : torch.nn.Module
    survey : Survey, optional
        Of the model, by a caller that has one already. It is what comes out, too.
    """
    if survey is None:
        survey = survey_of(model)
    eager = _eager() if survey.compiled else nullcontext()
    # Copies that were made in inference mode could not be kept for a backward.
    with torch.inference_mode(False), torch.no_grad(), _copied(survey.writable), eager:
        yield survey


@contextmanager
def noted(model: nn.Module, images: torch.Tensor) -> Iterator[None]:
    """An error of torch's in the model's forward gets a note of what went in and what the model is made of."""
    try:
        yield
    except RuntimeError as error:
        first = next(model.parameters(), None)
        made_of = "" if first is None else f"; the model's first parameter is {first.dtype} on '{first.device}'"
        error.add_note(f"images: {tuple(images.shape)}, {images.dtype} on '{images.device}'{made_of}")
        raise
