"""What the bridge uses of CuPy, without a GPU: current device, stream and allocator, each a thread's own."""

from . import cuda

__all__ = ["cuda"]
