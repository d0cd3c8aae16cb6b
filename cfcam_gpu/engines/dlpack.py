"""Arrays of other libraries as torch tensors and back, by DLPack, without a copy; CuPy on torch's stream and memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

_importing = Lock()


def as_torch(array: Any, name: str) -> torch.Tensor:
    """`array` as a torch tensor on the same device, sharing its memory wherever its library allows.

    Parameters
    ----------
    array : torch, CuPy or NumPy array, or anything with ``__dlpack__``
    name : str
        The argument's name, for the error.

    Raises
    ------
    TypeError
        If `array` is none of these, or has no floating dtype.
    """
    if isinstance(array, np.ndarray):
        # torch takes neither negative strides, foreign byte orders nor read-only memory.
        native = array.dtype.newbyteorder("=")
        plain = np.ascontiguousarray(array, dtype=native) if array.dtype.kind == "f" else array
        if plain.dtype.kind != "f" or plain.dtype.itemsize > 8:
            raise TypeError(f"{name}: expected a floating dtype of at most 64 bits; got {array.dtype}")
        # An axis of length 1 may keep a negative stride in what NumPy calls contiguous.
        if not plain.flags.writeable or min(plain.strides, default=0) < 0:
            plain = plain.copy()
        tensor = torch.from_numpy(plain)
    elif isinstance(array, torch.Tensor):
        tensor = array.detach()
    elif hasattr(array, "__dlpack__"):
        tensor = from_dlpack(array)
    else:
        raise TypeError(
            f"{name}: expected a torch, CuPy or NumPy array, or an object with __dlpack__; got {type(array).__name__}"
        )
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating dtype; got {tensor.dtype}")
    return tensor


def like(tensor: torch.Tensor, original: Any) -> Any:
    """`tensor` as an array of the library that `original` came from; a torch tensor where that offers no way."""
    if isinstance(original, torch.Tensor):
        return tensor
    if isinstance(original, np.ndarray):
        return tensor.numpy()
    if type(original).__module__.partition(".")[0] == "cupy":
        return to_cupy(tensor)
    namespace = getattr(original, "__array_namespace__", None)
    return namespace().from_dlpack(tensor) if namespace else tensor


def to_cupy(tensor: torch.Tensor) -> Any:
    """A CuPy array on the tensor's memory.

    Raises
    ------
    RuntimeError
        If CuPy is not installed.
    ValueError
        If the tensor is not on a CUDA device.
    """
    if tensor.device.type != "cuda":
        raise ValueError(f"cupy: expected a tensor on a CUDA device; got one on '{tensor.device}' (use numpy())")
    try:
        import cupy
    except ImportError:
        raise RuntimeError(
            "cupy: CuPy is not installed; pip install 'cfcam-gpu[cuda12]' or 'cfcam-gpu[cuda13]'"
        ) from None
    return cupy.from_dlpack(tensor.detach())


@contextmanager
def cupy_on_torch(device: torch.device) -> Iterator[Any]:
    """Inside, CuPy works on `device`, on torch's current stream there, with memory of torch's caching allocator.

    All of it is this thread's alone, and ends with the block: neither the stream nor the allocator that the user chose
    for CuPy is touched. Arrays made inside may outlive the block, and be dropped by any thread.

    Parameters
    ----------
    device : torch.device
        A CUDA device, with its index.

    Yields
    ------
    module
        ``cupy``
    """
    cupy = importlib.import_module("cupy")
    stream = torch.cuda.current_stream(device)
    with cupy.cuda.Device(device.index), _as_cupy(stream, cupy), cupy.cuda.using_allocator(partial(_allocate, device)):
        yield cupy


def _allocate(device: torch.device, size: int) -> Any:
    """`size` bytes of torch's for CuPy, a ``cupy.cuda.MemoryPointer``.

    A tensor owns them, so that they return to torch with the last array on them. Torch hands them out again on the
    stream that is current now, which is where the array is used.
    """
    cupy = importlib.import_module("cupy")
    owner = torch.empty(size, dtype=torch.uint8, device=device)
    return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(owner.data_ptr(), size, owner, device.index), 0)


def _as_cupy(stream: torch.cuda.Stream, cupy: Any) -> Any:
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_StreamProtocol(stream))
    return cupy.cuda.ExternalStream(stream.cuda_stream, stream.device.index)  # CuPy 13; later ones warn of it


class _StreamProtocol:
    """A torch stream that speaks the CUDA stream protocol, as only the later releases of torch do by themselves."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream.cuda_stream


def import_keeping_allocator(name: str) -> ModuleType:
    """Import a module that sets CuPy's allocator for the whole process, as cuML does, and set the user's again.

    It is imported in a thread of its own, because CuPy refuses to have its allocator set in a thread that is inside
    ``cupy.cuda.using_allocator``, and the caller's may be. A module that is already there is left as it is, and so is
    the allocator, whoever chose it.

    Parameters
    ----------
    name : str
        The module's full name.

    Raises
    ------
    Exception
        Whatever the import raises.
    """
    with _importing:  # or a second thread would take the allocator that the first one's import has set for the user's
        if name in sys.modules:
            return importlib.import_module(name)
        cuda = importlib.import_module("cupy").cuda
        device = cuda.Device()  # a new thread begins on device 0, where an import may leave a context

        def work() -> ModuleType:
            with device:
                allocator = cuda.get_allocator()
                try:
                    return importlib.import_module(name)
                finally:
                    cuda.set_allocator(allocator)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work).result()
