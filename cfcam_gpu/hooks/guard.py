"""What keeps the user's model as it was during a call."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


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


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Afterwards the module's own buffers are as before."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers(recurse=False)]
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for buffer, value in kept:
                # By its data: a change that autograd counts would forbid a backward that the caller has still to run.
                buffer.data.copy_(value)


#: Of a normalisation layer in training mode: what a call kept while another one runs would be that one's.
_statistics = Shared(_restored)

_eager = Shared(lambda: torch.compiler.set_stance("force_eager"))


class Survey(NamedTuple):
    """What a call asks of all the modules of a model.

    Parameters
    ----------
    modules : set of torch.nn.Module
    training : list of torch.nn.Module
        Normalisation layers in training mode, whose running statistics a forward changes.
    compiled : bool
        Whether the model or a part of it is compiled.
    """

    modules: set[nn.Module]
    training: list[nn.Module]
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
    compiled = False
    ahead: list[nn.Module | None] = [model]
    while ahead:
        module = ahead.pop()
        if module is None or module in modules:  # a part that a model lacks may be registered as None
            continue
        modules.add(module)
        if isinstance(module, _NormBase) and module.training and module.track_running_stats:
            training.append(module)
        if parts := module._modules:  # most have none
            ahead.extend(parts.values())
        if module._compiled_call_impl is not None or "_orig_mod" in parts:
            compiled = True
    return Survey(modules, training, compiled)


def warn_of_training(model: nn.Module) -> Survey:
    """Warn, on the line of the user's that called, if normalisation layers of a model are in training mode.

    Returns what was seen of the model, for :func:`guarded`.
    """
    survey = survey_of(model)
    if not survey.training:
        return survey
    package, level, frame = __name__.partition(".")[0], 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"model: {len(survey.training)} normalisation layers are in training mode, so an image's result depends on "
        "the rest of its batch; call model.eval() first",
        UserWarning,
        stacklevel=level,
    )
    return survey


@contextmanager
def guarded(model: nn.Module, survey: Survey | None = None) -> Iterator[Survey]:
    """No graph is recorded inside, and batch norm's running statistics come out as they went in.

    The caller's grad and inference modes return afterwards. A model in training mode is used as it is. Compiled parts
    run as the modules that they were made from: the compiler would trace the hooks, or not call them. torch knows one
    stance for the whole process, so calls that overlap share it; what other threads have compiled runs as it is
    written, too, for that while. It holds in the backward, too, where a checkpoint runs modules again.

    Parameters
    ----------
    model : torch.nn.Module
    survey : Survey, optional
        Of the model, by a caller that has one already. It is what comes out, too.
    """
    if survey is None:
        survey = survey_of(model)
    with ExitStack() as kept:
        for module in survey.training:
            kept.enter_context(_statistics(module))
        if survey.compiled:
            kept.enter_context(_eager())
        with torch.inference_mode(False), torch.no_grad():
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
