"""Arrays of other libraries as torch tensors and back, by DLPack, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack


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
