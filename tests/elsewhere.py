"""A GPU without a GPU: tensors of the host that say they are on CUDA, and refuse what CUDA's refuse.

Inside :func:`elsewhere` what is moved to "cuda", made there or computed from that is marked. A marked tensor's device
is ``cuda:0``. Where it meets one of the host in an operator, where NumPy gets it, and where a generator of the host
draws numbers there, an error is raised, as CUDA does. The values are those of the CPU. What is written in C++ alone,
and what other threads do, is not looked at: no stream, no allocator and no kernel is there.
"""

from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
#: Operators that take one tensor of either.
_COPIES = ("copy_", "copy", "set_", "_to_copy")
#: Those that take indices, and single values, of the host beside a tensor of the device.
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
#: Those that take a single number of the host, beside those that torch calls pointwise.
_WITH_NUMBERS = ("where", "fill_", "masked_fill", "masked_fill_", "pow", "result_type")
_INTEGERS = (torch.bool, torch.uint8, torch.int32, torch.int64)


class MixedDevicesError(RuntimeError):
    """What CUDA would refuse."""


def _tensors(tree):
    """torch's own way through a tree takes as long as small operators do."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for branch in branches for tensor in _tensors(branch)]


class _Memory:
    """Which memory is the device's. None is given back, lest an address be seen again in another's place."""

    def __init__(self):
        self._known = {}

    def _storage(self, tensor):
        with torch._C.DisableTorchFunction():
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            return tensor.untyped_storage()

    def has(self, tensor):
        storage = self._storage(tensor)
        return self._known.setdefault(storage._cdata, (storage, False))[1]

    def knows(self, tensor):
        return self._storage(tensor)._cdata in self._known

    def mark(self, tree, there=True):
        for tensor in _tensors(tree):
            storage = self._storage(tensor)
            self._known[storage._cdata] = storage, there
        return tree


#: One for all, as the library keeps some tables.
_MEMORY = _Memory()


class _Operators(TorchDispatchMode):
    """Refuses operators on both, and marks what comes of the device's."""

    def __init__(self):
        super().__init__()
        self.working_there = False  # whether torch itself makes tensors beside those of the device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            given = _tensors([args, kwargs])
            there = [_MEMORY.has(tensor) for tensor in given]
            if any(there):
                self._check(function, given, there)
            found = function(*args, **(kwargs or {}))
            for tensor in _tensors(found):
                if not _MEMORY.knows(tensor):
                    _MEMORY.mark(tensor, any(there) or (not given and self.working_there))
            return found

    def _check(self, function, given, there):
        name = function.overloadpacket.__name__
        numbers = torch.Tag.pointwise in function.tags or name in _WITH_NUMBERS
        for place, (tensor, on_device) in enumerate(zip(given, there)):
            index = place and there[0] and (tensor.dtype in _INTEGERS or tensor.ndim == 0)
            may_be_there = name in _COPIES or (numbers and tensor.ndim == 0) or (name in _INDEXED and index)
            if not on_device and not may_be_there:
                raise MixedDevicesError(
                    f"Expected all tensors to be on the same device, but in {function} the one at {place}, "
                    f"{tuple(tensor.shape)} of {tensor.dtype}, is on cpu, and others are on {DEVICE}"
                )


class _Functions(TorchFunctionMode):
    """Answers where a tensor is, moves, and makes tensors on the device."""

    def __init__(self, operators):
        super().__init__()
        self._operators = operators

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name == "__get__":
            return self._property(function, *args)
        given = _tensors([args, kwargs])
        there = any(_MEMORY.has(tensor) for tensor in given)
        if name in ("numpy", "__array__") and there and not kwargs.get("force"):
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")
        if name in ("cpu", "cuda", "to") and given:
            return self._moved(function, name, *args, **kwargs)
        asked = kwargs.get("device")
        if asked is not None:
            asked = torch.device(asked)
            kwargs["device"] = HOST if asked.type == "cuda" else asked
        self._check_generator(name, args, kwargs, DEVICE if there and asked is None else asked or HOST)
        before, self._operators.working_there = self._operators.working_there, there
        try:
            found = function(*args, **kwargs)
        finally:
            self._operators.working_there = before
        if asked is not None:
            _MEMORY.mark(found, asked.type == "cuda")
        elif there and (name == "__deepcopy__" or name.startswith("new_")):
            _MEMORY.mark(found)
        return found

    def _property(self, function, tensor, *args):
        of = getattr(function.__self__, "__name__", "")
        if of in ("device", "is_cuda", "is_cpu") and _MEMORY.has(tensor):
            return {"device": DEVICE, "is_cuda": True, "is_cpu": False}[of]
        return function(tensor, *args)

    def _check_generator(self, name, args, kwargs, wanted):
        found = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Generator)]
        if found and found[0].device.type != wanted.type:
            raise MixedDevicesError(f"{name}: expected a {wanted.type!r} generator; got {found[0].device.type!r}")

    def _moved(self, function, name, source, *args, **kwargs):
        here, rest = _MEMORY.has(source), list(args)
        there = name == "cuda" or (here and name != "cpu")
        if name == "to":
            target = rest[0] if rest and not isinstance(rest[0], torch.dtype) else kwargs.get("device")
            if isinstance(target, torch.Tensor):
                there, rest[0] = _MEMORY.has(target), target.dtype
            elif target is not None:
                there = torch.device(target).type == "cuda"
            if rest and not isinstance(rest[0], torch.dtype):
                rest = rest[1:]
            # By place there are a dtype, whether to block, and whether to copy.
            kwargs |= dict(zip(("dtype", "non_blocking", "copy"), rest))
            kwargs = {key: value for key, value in kwargs.items() if key != "device" and value is not None}
            found = function(source, **kwargs) if kwargs else source
        else:
            found = source
        if there == here:
            return found
        if found.untyped_storage()._cdata != source.untyped_storage()._cdata:
            return _MEMORY.mark(found, there)
        if source.requires_grad and torch.is_grad_enabled():
            return _Move.apply(source, there)
        with torch.no_grad():
            return _MEMORY.mark(found.detach().clone(), there)


class _Move(torch.autograd.Function):
    """To the other device and, of gradients, back."""

    @staticmethod
    def forward(ctx, tensor, there):
        ctx.there = there
        return _MEMORY.mark(tensor.clone(), there)

    @staticmethod
    def backward(ctx, gradient):
        return _MEMORY.mark(gradient.clone(), not ctx.there), None


class _Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.said = torch.device(device)
        return made

    @property
    def device(self):
        return self.said


class _Stream:
    """One that has always done its work."""

    def __init__(self, *given, **options):
        pass

    def record_event(self, event=None):
        return _Stream()

    def nothing(self, *given):
        pass

    record = wait = wait_event = wait_stream = synchronize = nothing


@contextmanager
def elsewhere():
    """Inside there is such a device. Modes are the thread's own: others see tensors of the host."""
    operators = _Operators()
    functions = _Functions(operators)
    run_backward, fork = torch.autograd._engine_run_backward, torch.random.fork_rng

    def backward(roots, *args, **kwargs):
        """The mode is off within a function of torch's, and hooks in Python are called in this one."""
        before, operators.working_there = operators.working_there, any(map(_MEMORY.has, _tensors(roots)))
        try:
            with functions:
                return run_backward(roots, *args, **kwargs)
        finally:
            operators.working_there = before

    with ExitStack() as around:
        for owner, name, value in [
            (torch.autograd, "_engine_run_backward", backward),
            (torch, "Generator", _Generator),
            (torch.random, "fork_rng", lambda devices=None, **options: fork([], **options)),
            (torch.Tensor, "record_stream", lambda tensor, stream: None),
            *[(torch.cuda, name, _Stream) for name in ("Stream", "Event", "current_stream")],
            *[(torch.cuda, name, lambda *given: nullcontext()) for name in ("stream", "device")],
            (torch.cuda, "synchronize", lambda *given: None),
        ]:
            around.enter_context(mock.patch.object(owner, name, value))
        around.enter_context(operators)
        around.enter_context(functions)
        yield DEVICE
