"""The kernels' own sources, compiled for the CPU with cuda_on_host.h, as the fused engine launches them."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

from cfcam_gpu.engines import kernels

from ..needs import lacking

HEADER = Path(__file__).with_name("cuda_on_host.h")
BUILD = Path(__file__).parents[2] / "build" / "host"
FLAGS = (
    "-std=c++20",
    "-O2",
    "-march=native",
    "-ffp-contract=off",
    "-shared",
    "-fPIC",
    "-U_FORTIFY_SOURCE",
    "-Wno-unknown-pragmas",
)
#: thread or address: threads of the system, and the sanitizer; make sanitize preloads its library.
SANITIZER = os.environ.get("CFCAM_SANITIZE")


def launch(name, grid, block, *arguments, **macros):
    """A :class:`cfcam_gpu.engines.kernels.Launch`, for tensors on the host."""
    assert all(size >= 1 for size in (*grid, *block)), (name, grid, block)
    assert grid[1] <= 65535
    assert block[0] * block[1] <= 1024
    for value in arguments:
        if isinstance(value, torch.Tensor):
            assert value.is_contiguous(), name
    scalars = [_scalar(value) for value in arguments]
    pointers = (ctypes.c_void_p * len(scalars))(*(ctypes.addressof(value) for value in scalars))
    function = compiled(name, kernels.definitions(name, macros))
    expected = ctypes.c_int.in_dll(function.library, "argument_count").value
    assert len(scalars) == expected, f"{name} takes {expected} arguments; got {len(scalars)}"
    if function((ctypes.c_uint * 4)(*grid, *block), pointers) != 0:
        raise RuntimeError(f"{name}: a barrier that not all threads reach")


def _scalar(value):
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, kernels.Memory):
        return ctypes.c_void_p(value.address)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int(value)


@cache
def compiled(name, definitions):
    if shutil.which("g++") is None:
        lacking("there is no g++", "COMPILERS")
    text = (
        f'#include "{HEADER}"\n{kernels.source(name)}\n#line 1 "emulator.py"\n'
        "template <typename... T> constexpr int count(void (*)(T...)) { return sizeof...(T); }\n"
        f'extern "C" const int argument_count = count({name});\n'
        'extern "C" int launch(const unsigned *shape, void **args) '
        f"{{ return on_host::run([](void **a) {{ on_host::call({name}, a); }}, shape, args); }}\n"
    )
    flags = [*FLAGS, *definitions]
    if SANITIZER:
        flags += ["-g", "-O1", f"-fsanitize={SANITIZER}", "-DCUDA_ON_HOST_THREADS"]
    digest = hashlib.sha256("\n".join([text, HEADER.read_text(), *flags]).encode()).hexdigest()[:16]
    path = BUILD / f"{name}-{digest}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        source, part = path.with_suffix(".cpp"), path.with_suffix(f".{os.getpid()}")
        source.write_text(text)
        command = ["g++", *flags, str(source), "-o", str(part)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        part.replace(path)
    library = ctypes.CDLL(str(path))
    library.launch.restype = ctypes.c_int
    library.launch.library = library
    return library.launch
