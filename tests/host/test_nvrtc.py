"""Every kernel through NVRTC, with CuPy's options, for the GPUs that are supported; no GPU is needed."""

import ctypes
import re
import sysconfig
from functools import cache
from pathlib import Path

import pytest

from cfcam_gpu.engines import kernels

from ..needs import lacking

NAMES = sorted(path.stem for path in kernels.folder().glob("*.cu"))
ARCHITECTURES = (75, 80, 90, 100)
MACROS = ({"INPUT": "float", "NEIGHBOR": 3, "EACH": 8}, {"INPUT": "double", "NEIGHBOR": 16, "EACH": 4})


@cache
def nvrtc():
    """The library of the nvidia-cuda-nvrtc package."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = sorted(packages.glob("*/lib/libnvrtc.so.[0-9]*"))
    if not found:
        lacking("there is no nvidia-cuda-nvrtc-cu12, which is for Linux", "COMPILERS")
    return ctypes.CDLL(str(found[-1]))


def compiled(name, text, flags):
    """Whether it compiled, and the compiler's log."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), f"{name}.cu".encode(), 0, None, None) == 0
    options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    failed = library.nvrtcCompileProgram(program, len(flags), options)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return not failed, log.value.decode()


def flags_of(name, macros, architecture):
    # CuPy adds the last two; the log tells registers and spills.
    added = (f"-arch=sm_{architecture}", "-ftz=true")
    return (*kernels.OPTIONS, *kernels.definitions(name, macros), "--ptxas-options=-v", *added)


def programs(name):
    """The flags of each that differs, in order."""
    return list(dict.fromkeys(flags_of(name, macros, sm) for sm in ARCHITECTURES for macros in MACROS))


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_without_a_warning_or_a_spill(name, every):
    # One of them: by turns for the oldest GPU with the first setting of the macros, for the newest with the last.
    for flags in programs(name) if every else [programs(name)[-(NAMES.index(name) % 2)]]:
        good, log = compiled(name, kernels.source(name), flags)
        assert good, log
        assert "warning" not in log, log
        (registers,) = re.findall(r"Used (\d+) registers", log)
        shared = re.findall(r"(\d+) bytes smem", log)
        print(f"{name} {' '.join(flags)}: {registers} registers, {shared or 0} bytes shared")
        local = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", log)
        assert len(local) == 3, log
        assert all(count == "0" for count, _ in local), log


def test_a_kernel_is_compiled_once_for_each_setting_of_the_macros_it_knows():
    counts = {name: len(programs(name)) for name in ("components", "gather_points", "neighbor_distances")}
    assert counts == {"components": 4, "gather_points": 8, "neighbor_distances": 8}
    assert all(len(programs(name)) in (4, 8) for name in NAMES)


def test_errors_name_the_file_and_the_line():
    text = kernels.source("components").replace("parents += (size_t)p * stride;", "parents += missing;")
    line = (kernels.folder() / "components.cu").read_text().split("parents += (size_t)")[0].count("\n") + 1
    good, log = compiled("components", text, flags_of("components", {}, 90))
    assert not good
    assert f"components.cu({line}): error" in log
    text = kernels.source("components").replace("point = parent;", "point = absent;")
    line = (kernels.folder() / "common.cuh").read_text().split("point = parent;")[0].count("\n") + 1
    good, log = compiled("components", text, flags_of("components", {}, 90))
    assert not good
    assert f"common.cuh({line}): error" in log


def test_spills_would_be_seen():
    text = 'extern "C" __global__ __launch_bounds__(1024, 2) void spills(double *x) {\n double kept[64];\n'
    text += "for (int i = 0; i < 64; ++i) kept[i] = x[i * threadIdx.x];\n __syncthreads();\n"
    text += "for (int i = 0; i < 64; ++i) x[i * threadIdx.x] = kept[63 - i] * kept[i];\n}\n"
    good, log = compiled("spills", text, [*kernels.OPTIONS, "--ptxas-options=-v", "-arch=sm_90"])
    assert good
    assert not re.search(r" 0 bytes spill stores", log)
