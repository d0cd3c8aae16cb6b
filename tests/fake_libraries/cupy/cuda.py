import threading
from contextlib import contextmanager


class _Current(threading.local):
    def __init__(self):
        self.device, self.stream, self.allocator = 0, None, None


current = _Current()
_everywhere = "CuPy's pool"


def get_allocator():
    return current.allocator or _everywhere


def set_allocator(allocator):
    global _everywhere
    if current.allocator is not None:
        raise ValueError("Can't change the global allocator inside `using_allocator` context manager")
    _everywhere = allocator


@contextmanager
def using_allocator(allocator):
    before, current.allocator = current.allocator, allocator
    try:
        yield
    finally:
        current.allocator = before


class Device:
    def __init__(self, index=None):
        self.id = current.device if index is None else index

    def __enter__(self):
        self.before, current.device = current.device, self.id

    def __exit__(self, *error):
        current.device = self.before


class ExternalStream:
    def __init__(self, ptr, device_id=-1):
        self.ptr, self.device_id = ptr, device_id

    def __enter__(self):
        assert self.device_id in (-1, current.device)
        self.before, current.stream = current.stream, self

    def __exit__(self, *error):
        current.stream = self.before


class Stream(ExternalStream):
    @classmethod
    def from_external(cls, stream):
        version, ptr = stream.__cuda_stream__()
        assert version == 0
        return cls(ptr)


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id):
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset
