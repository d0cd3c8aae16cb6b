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
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

#: DLPack's numbers of memory that NumPy reads: the host's, and what CUDA and ROCm have pinned of it.
_HOST = (1, 3, 11)

_importing = Lock()


def as_torch(array: Any, name: str) -> torch.Tensor:
    """`array` as a torch tensor on the same device, sharing its memory wherever its library and torch allow.

    Parameters
    ----------
    array : torch, CuPy or NumPy array, or anything with ``__dlpack__``
        On the host, what torch can't read where it is, or what must not be written, is copied.
    name : str
        The argument's name, for the error.

    Raises
    ------
    TypeError
        If `array` is none of these, has no floating dtype, or is of a library that does not hand it out.
    ValueError
        If it has negative strides, and is on a GPU, or of a dtype that NumPy lacks.
    """
    if isinstance(array, np.ndarray):
        tensor = _from_numpy(array, name)
    elif isinstance(array, torch.Tensor):
        tensor = array.detach().resolve_neg()  # other libraries see the memory, not the sign that goes with it
    elif hasattr(array, "__dlpack__"):
        try:
            tensor = _from_dlpack(array, name)
        except BufferError as error:  # a foreign byte order, say
            raise TypeError(f"{name}: expected an array that DLPack can describe; got one with: {error}") from error
    else:
        raise TypeError(
            f"{name}: expected a torch, CuPy or NumPy array, or an object with __dlpack__; got {type(array).__name__}"
        )
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating dtype; got {tensor.dtype}")
    return tensor


def _from_numpy(array: NDArray[Any], name: str) -> torch.Tensor:
    # torch takes neither negative strides, foreign byte orders nor read-only memory.
    native = array.dtype.newbyteorder("=")
    plain = np.ascontiguousarray(array, dtype=native) if array.dtype.kind == "f" else array
    if plain.dtype.kind != "f" or plain.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected a floating dtype of at most 64 bits; got {array.dtype}")
    # An axis of length 1 may keep a negative stride in what NumPy calls contiguous.
    if not plain.flags.writeable or min(plain.strides, default=0) < 0:
        plain = plain.copy()
    return torch.from_numpy(plain)


def _from_dlpack(array: Any, name: str) -> torch.Tensor:
    # By NumPy where it can: a negative stride makes torch 2.13 end the process, and read-only memory it lets one write.
    if array.__dlpack_device__()[0] in _HOST:
        try:
            return _from_numpy(np.from_dlpack(array), name)
        except RuntimeError:
            pass  # a dtype that NumPy lacks: bfloat16, say
    strides = getattr(array, "strides", None)
    if isinstance(strides, (tuple, list)) and min(strides, default=0) < 0:
        raise ValueError(
            f"{name}: expected strides of at least 0; got {tuple(strides)}; give a copy, such as "
            "cupy.ascontiguousarray makes"
        )
    return from_dlpack(array)


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
    return cupy.from_dlpack(tensor.detach().resolve_neg())


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
