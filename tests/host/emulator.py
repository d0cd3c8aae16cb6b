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
    flags = list(FLAGS)
    if SANITIZER:
        flags += ["-g", "-O1", f"-fsanitize={SANITIZER}", "-DCUDA_ON_HOST_THREADS"]
    text = (
        f'#include "{_parsed(*flags)}"\n{kernels.source(name)}\n#line 1 "emulator.py"\n'
        "template <typename... T> constexpr int count(void (*)(T...)) { return sizeof...(T); }\n"
        f'extern "C" const int argument_count = count({name});\n'
        'extern "C" int launch(const unsigned *shape, void **args) '
        f"{{ return on_host::run([](void **a) {{ on_host::call({name}, a); }}, shape, args); }}\n"
    )
    flags += definitions
    path = BUILD / f"{name}-{_digest(text, HEADER.read_text(), *flags)}.so"
    if not path.exists():
        _compile(text, path.with_suffix(".cpp"), path, "-shared", *flags)
    library = ctypes.CDLL(str(path))
    library.launch.restype = ctypes.c_int
    library.launch.library = library
    return library.launch


@cache
def _parsed(*flags):
    """What includes the header, and lies beside it precompiled: it takes twice as long as a kernel that is after it."""
    text = f'#include "{HEADER}"\n'
    path = BUILD / f"{HEADER.stem}-{_digest(text, HEADER.read_text(), *flags)}.h"
    precompiled = path.with_suffix(".h.gch")
    if not precompiled.exists():
        _compile(text, path, precompiled, "-x", "c++-header", *flags)
    return path


def _digest(*texts):
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _compile(text, source, path, *flags):
    """Another process may do the same, or already read what is there: each file is there whole."""
    BUILD.mkdir(parents=True, exist_ok=True)
    parts = [target.with_name(f"{os.getpid()}-{target.name}") for target in (source, path)]
    parts[0].write_text(text)
    parts[0].replace(source)
    done = subprocess.run(["g++", *flags, source, "-o", parts[1]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    parts[1].replace(path)
