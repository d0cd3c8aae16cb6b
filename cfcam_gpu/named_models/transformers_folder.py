"""Classifiers of transformers in a folder: what ``save_pretrained`` of a model and of its image processor wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..image_files.preparation import Preparation
from . import descriptions
from .factories import package

_CONFIG = "config.json"
_PROCESSOR = "preprocessor_config.json"


def load(folder: Path) -> tuple[nn.Module, Preparation]:
    """The classifier in a folder, and how its images are prepared. Nothing is downloaded, and none of its code run.

    Raises
    ------
    FileNotFoundError
        If model, weights or image processor are not there.
    ImportError
        If transformers can't be imported.
    ValueError
        If there is no classifier of images, its weights are not whole, or its processor does what is not done here.
    """
    for name in (_CONFIG, _PROCESSOR):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"model: expected {folder} to have {name}, as save_pretrained of a model and of its image processor "
                "writes it"
            )
    transformers: Any = package("transformers", "transformers")
    there: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        module, said = transformers.AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, **there
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **there)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"model: {folder} is no classifier of images that transformers can load: {error}") from error
    # transformers fills what is missing with random numbers.
    missing = sorted({*said["missing_keys"], *(str(key) for key in said["mismatched_keys"])})
    if missing:
        raise ValueError(
            f"model: the weights in {folder} do not fit its classifier: {len(missing)} are missing or of another shape "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})"
        )
    return module, descriptions.of_processor(processor)
