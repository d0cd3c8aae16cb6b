"""The CUDA kernels of the fused engine: where their sources are, how they are compiled, how they are launched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from . import dlpack


class Memory(NamedTuple):
    """A part of a tensor's memory."""

    address: int
    owner: torch.Tensor


#: What a kernel takes: a tensor's memory, or a part of it, or a null pointer; an ``int``; a ``double``.
Argument: TypeAlias = torch.Tensor | Memory | int | float | None
Arguments: TypeAlias = tuple[Argument, ...]

#: Nothing is contracted, so that distances are SciPy's to the last bit. CuPy adds the architecture and -ftz=true.
OPTIONS = ("--std=c++17", "--fmad=false")

_MACRO = re.compile(r"^#ifndef (\w+)$", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


class Launch(Protocol):
    """Starts a kernel; it may return before the kernel is done."""

    def __call__(
        self, name: str, grid: tuple[int, int], block: tuple[int, int], *arguments: Argument, **macros: str | int
    ) -> None:
        """Launch kernels/<name>.cu with `grid` blocks of `block` threads, compiled with those of `macros` it knows."""
        ...


def folder() -> Path:
    """The folder of the sources: inside the package where that is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "kernels", package.parent / "kernels"
    # By a file of ours: beside an installed package there may be a folder of this name, which is another package's.
    return inside if (inside / "common.cuh").is_file() or not (beside / "common.cuh").is_file() else beside


@cache
def source(name: str) -> str:
    """A kernel's source in one piece.

    Headers stand in the place of their ``#include``, so that CuPy's cache, which hashes the source alone, sees them
    change. Compilers' messages name the files.
    """
    path = folder() / f"{name}.cu"
    text = path.read_text(encoding="utf-8")

    def inline(match: re.Match[str]) -> str:
        header = path.with_name(match[1])
        after = text.count("\n", 0, match.start()) + 2
        body = header.read_text(encoding="utf-8").replace("#pragma once\n", "\n")
        return f'#line 1 "{header.name}"\n{body}#line {after} "{path.name}"'

    return f'#line 1 "{path.name}"\n{_INCLUDE.sub(inline, text)}'


@cache
def _known(name: str) -> frozenset[str]:
    return frozenset(_MACRO.findall((folder() / f"{name}.cu").read_text(encoding="utf-8")))


def definitions(name: str, macros: dict[str, str | int]) -> tuple[str, ...]:
    """Options that define those of `macros` for which the kernel has a default."""
    return tuple(f"-D{macro}={value}" for macro, value in sorted(macros.items()) if macro in _known(name))


@contextmanager
def on_gpu(device: torch.device) -> Iterator[Launch]:
    """Launches on torch's current stream of `device`, with CuPy."""
    with dlpack.cupy_on_torch(device) as cupy:

        def launch(
            name: str, grid: tuple[int, int], block: tuple[int, int], *arguments: Argument, **macros: str | int
        ) -> None:
            kernel = _kernel(cupy, device.index, name, tuple(macros.items()))
            kernel(grid, block, tuple(_as_scalar(value) for value in arguments))

        yield launch


@cache
def _kernel(cupy: Any, device: int, name: str, macros: tuple[tuple[str, str | int], ...]) -> Any:
    """As :func:`_compiled`, by all macros: a launch, of which an explanation has dozens, formats no options."""
    return _compiled(cupy, device, name, OPTIONS + definitions(name, dict(macros)))


@cache
def _compiled(cupy: Any, device: int, name: str, flags: tuple[str, ...]) -> Any:
    """The kernel on the current device, which is `device`."""
    return cupy.RawModule(code=source(name), options=flags).get_function(name)


def _as_scalar(value: Argument) -> np.generic:
    if value is None:
        return np.uint64(0)
    if isinstance(value, torch.Tensor):
        return np.uint64(value.data_ptr())
    if isinstance(value, Memory):
        return np.uint64(value.address)
    return np.float64(value) if isinstance(value, float) else np.int32(value)
