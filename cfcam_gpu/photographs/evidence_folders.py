"""Folders of evidence of photographs: what the command knows beside the explanation itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import environment
from ..deploy.loading import Deployed
from ..hooks.state import weights_sha256
from ..named_models import exported
from ..named_models.loading import Loaded
from ..named_models.models import PACKAGES, Model, is_code
from ..named_models.options import Settings
from ..results import fonts
from ..results.evidence import save_evidence
from ..results.explanation import Explanation
from ..results.trust import Trust
from .expected import SUFFIXES

Facts = Mapping[str, Mapping[str, Any]]


def check(targets: int, spatial_dims: int) -> None:
    """Refuse what has no such folders, before a model is loaded.

    Raises
    ------
    ValueError
        The message names the way out.
    """
    if targets > 1:
        raise ValueError(
            f"evidence: expected one target at most; got {targets}. Give a folder for each: --target CLASS --out DIR"
        )
    if spatial_dims != 2:
        raise ValueError("evidence: expected photographs; got volumes, whose results say where they lie by themselves")


def facts(settings: Settings, loaded: Loaded) -> Facts:
    """What holds for all photographs of a job.

    Of an exported file the digest of its weights is the one that it was exported with.
    """
    explain, model = loaded.explain, loaded.model
    # Of a function of the user's nobody knows what weights it gives its model.
    own = settings.weights is None and settings.file is None and is_code(settings.model)
    package = settings.model.partition(":")[0]
    if isinstance(explain, Deployed):
        weights = explain.description.weights_sha256
    else:
        assert isinstance(model, Model)
        weights = weights_sha256(model.module)
    return {
        "model": {
            "name": settings.model if settings.file is None else settings.file.name,
            "file_sha256": None if settings.file is None else file_sha256(settings.file),
            "package": f"{package} {environment.version(package)}" if package in PACKAGES else None,
            "weights": None if settings.weights is None else settings.weights.name,
            "weights_sha256": weights,
            "random_weights": None if own else not model.trained,
            "class_names_from": loaded.names_from,
            "preparation": exported.described(model.preparation),
            "window": settings.window,
        },
        "method": {
            "engine": loaded.engine,
            "runtime": explain.runtime if isinstance(explain, Deployed) else None,
            "preset": loaded.preset,
            "libragrad": explain.description.libragrad if isinstance(explain, Deployed) else explain.libragrad,
            "augment": list(settings.augment),
            "smooth": settings.smooth,
            "seed": 0,
        },
    }


def file_sha256(path: Path) -> str:
    """Of the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    found: Explanation,
    folder: Path,
    stem: str,
    pixels: torch.Tensor,
    path: Path,
    *,
    known: Facts,
    image: Mapping[str, Any],
    expected: Mapping[str, Any] | None,
    trust: Trust | None,
) -> None:
    """Write the folder of one photograph, over what there is: the job was refused if that was not allowed.

    Parameters
    ----------
    found : Explanation
        Of this one.
    folder : Path
        Of all the folders.
    stem : str
        What its results are called.
    pixels : (C, H, W) uint8 tensor
        As the model saw it.
    path : Path
        The file that it is from.
    known : mapping
        See :func:`facts`.
    image : mapping
        What JSON has of where it is from.
    expected : mapping or None
        What JSON has of the class that was expected.
    trust : Trust or None
        Of this one.
    """
    about = {**known, "image": {**image, "file_sha256": _of_picture(path)}}
    if expected is not None:
        about["expected"] = expected
    if expected is None or expected["is_predicted"]:  # those of an earlier run are of another class
        for suffix in SUFFIXES:
            (folder / stem / f"map{suffix}").unlink(missing_ok=True)
    with fonts.told_later():
        save_evidence(found, folder, pixels[None], names=[stem], trust=trust, about=about, overwrite=True)


def _of_picture(path: Path) -> str | None:
    """Of a file, which may be gone meanwhile."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def part_of(trust: Trust | None, row: int) -> Trust | None:
    """The figures of one image of a batch."""
    if trust is None:
        return None
    own: Any = {name: None if value is None else value[row : row + 1] for name, value in vars(trust).items()}
    return replace(trust, **own)
