"""What this machine has: devices, versions and engines."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from . import engines
from ._version import __version__

#: Of each package the distributions that it may come from.
PACKAGES = {
    "torch": ("torch",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cuml": ("cuml-cu13", "cuml-cu12", "cuml"),
    "cucim": ("cucim-cu13", "cucim-cu12", "cucim"),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "scikit-learn": ("scikit-learn",),
    "numba": ("numba",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}


def describe() -> dict[str, Any]:
    """Devices, versions and engines, as JSON takes them.

    Returns
    -------
    dict
        ``versions``: package to version or None. ``cuda``: the release that torch is built for, or None. ``devices``:
        name, compute capability and memory in GiB of each GPU. ``engines``: name to None where it is available, else
        the reason and the remedy. ``providers``: where the installed onnxruntime can play exported files.
    """
    return {
        "versions": {
            "cfcam_gpu": __version__,
            "python": platform.python_version(),
            **{package: version(*distributions) for package, distributions in PACKAGES.items()},
        },
        "cuda": torch.version.cuda,
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "engines": {name: engines.load(name).why_missing() for name in engines.ENGINES},
        "providers": _providers(),
    }


def _providers() -> list[str]:
    """ONNX Runtime's; none without it."""
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def version(*distributions: str) -> str | None:
    """The release of a package, by the first of its distributions that is installed; None without any."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
    }
