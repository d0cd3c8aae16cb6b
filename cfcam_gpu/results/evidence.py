"""An explanation as a folder of evidence: what a reader who was not there needs to judge it, and to make it again."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from .. import environment, methods
from .._version import __version__
from ..hooks.state import weights_sha256
from . import durable, figures, overlays, panels, saving
from .parts import part
from .record import Record, with_axes
from .trust import Trust

#: What is made of each image; of files that are asked to be written over, these alone.
FILES = ("photograph.png", "map.npy", "map.png", "overlay.png", "figure.pdf", "explanation.json")
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")
#: Sections of explanation.json, of which a caller adds to those of facts.
_SECTIONS = ("image", "model", "method", "expected")


def save_evidence(
    explanation: Record,
    folder: str | os.PathLike[str],
    images: torch.Tensor,
    *,
    names: Sequence[str] | None = None,
    trust: Trust | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a folder of evidence for each image.

    ``<folder>/<name>/`` has ``photograph.png``, the image as the model saw it; ``map.npy``, (H, W) float32 in [0, 1],
    and ``map.png``, the same in colour; ``overlay.png``; ``figure.pdf``, all of these side by side with the class, its
    probability and the scale of colours; and ``explanation.json``: date (UTC), the image's size, the SHA-256 of the
    model's weights, the predicted and the explained class with their probabilities, the method, its configuration and
    layers, the figures of `trust`, versions, and in words what the map does not show. With these, the same image, and
    the same weights and versions, the map can be made again. The digest is of the weights as they are now: write the
    folder before they are trained further. Of an explanation that was pickled, or copied, it is not known.

    Parameters
    ----------
    explanation : Explanation
        Of B images, one target each.
    folder : str or path
        Made if it doesn't exist.
    images : (B, C, H, W) tensor
        Those explained, as for :meth:`cfcam_gpu.Explanation.overlay`; or the same before they were normalised, as uint8
        in [0, 1], which shows them as they are. On any device.
    names : sequence of B str, optional
        Of the images, as for :func:`cfcam_gpu.results.save`.
    trust : Trust, optional
        Of this explanation: ``explanation.trust(images)``, which takes about eight forwards.
    about : mapping of str to mapping, optional
        What else is known, such as ``{"image": {"file": "cat.jpg"}, "model": {"name": "resnet50"}}``: JSON values by
        name, in the sections ``"image"``, ``"model"``, ``"method"`` and ``"expected"``. They hold for all images. Of a
        model with ``"random_weights": True`` the limits say that its maps mean nothing.
    overwrite : bool
        Whether files of the same names may be replaced.

    Returns
    -------
    list of Path
        The files ``explanation.json``, each the last of its folder to appear.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the explanation, or the explanation is not one of images with one target each.
    FileExistsError
        If a file is there already and `overwrite` is False; nothing is written then.
    OSError
        If a file can't be written.

    Examples
    --------
    >>> result = explain(images)  # doctest: +SKIP
    >>> results.save_evidence(result, "evidence", images, trust=result.trust(images))  # doctest: +SKIP
    """
    _check(explanation, images, trust, about)
    if names is None:
        names = [f"{b:04d}" for b in range(len(explanation))]
    saving.check_names("names", names, len(explanation), "image")
    folders = [Path(folder) / stem for stem in saving.file_names(names)]
    saving.check_free([place / name for place in folders for name in FILES], overwrite=overwrite)
    records = saving.describe(explanation)
    facts = _facts(explanation, about or {})
    images = images.to(explanation.raw_maps.device)
    rows = panels.rows_of(explanation, images, alpha=0.6, colormap="turbo")
    written = []
    for b, (place, row, record) in enumerate(zip(folders, rows, records, strict=True)):
        place.mkdir(parents=True, exist_ok=True)
        panel = row.panels[0]
        assert panel.photograph is not None  # the images were given
        for name, pixels in (("photograph", panel.photograph), ("map", panel.map), ("overlay", panel.overlay)):
            with durable.replacing(place / f"{name}.png", last=False) as file:
                Image.fromarray(pixels).save(file, format="PNG")
        with durable.replacing(place / "map.npy", last=False) as file:
            np.save(file, explanation.maps[b].cpu().numpy())
        with durable.replacing(place / "figure.pdf", last=False) as file:
            _draw(part(explanation, [b]), images[b : b + 1], file)
        told = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
            "prediction": record["top"][0] if record["top"] else None,
            "top": record["top"],
            # A callable has no class, but is called something.
            "explained": {
                "what": row.name,
                **{key: record[key] for key in ("target", "class", "probability", "empty")},
            },
            "trust": None if trust is None else _figures(trust, b),
            "limits": _limits(explanation, record, facts, measured=trust is not None),
        }
        with durable.replacing(place / "explanation.json") as file:
            file.write(json.dumps(_plain(told), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        written.append(place / "explanation.json")
    return written


def _check(explanation: Record, images: torch.Tensor, trust: Trust | None, about: object) -> None:
    if explanation.several:
        raise ValueError(
            f"explanation: expected one target an image; this one has {explanation.per_image}. Explain each target in "
            "a call of its own: explain(images, target[:, t])"
        )
    if len(explanation.size) != 2:
        raise ValueError(
            f"explanation: expected one of images (B, C, H, W); its maps have {len(explanation.size)} axes"
        )
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a torch tensor (B, C, H, W); got {type(images).__name__}")
    arranged = with_axes(explanation, images)
    if (len(images), *arranged.shape[2:]) != (len(explanation), *explanation.size):
        raise ValueError(
            f"images: expected {len(explanation)} of {' x '.join(map(str, explanation.size))}, as those explained; got "
            f"shape {tuple(images.shape)}"
        )
    overlays.check(explanation.maps.cpu(), arranged.cpu(), 1.0)
    if trust is not None and list(trust.classes) != explanation.classes:
        raise ValueError(
            f"trust: expected figures of this explanation, of {_few(explanation.classes)}; got those of "
            f"{_few(trust.classes)}"
        )
    if about is None:
        return
    if not isinstance(about, Mapping) or not all(isinstance(section, Mapping) for section in about.values()):
        raise TypeError(f"about: expected a dict of dicts, by the sections {', '.join(_SECTIONS)}; got {about!r:.80}")
    if unknown := [name for name in about if name not in _SECTIONS]:
        raise ValueError(f"about: expected the sections {', '.join(_SECTIONS)}; got {', '.join(map(str, unknown))}")
    try:
        json.dumps(_plain(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"about: expected what JSON takes, such as str, float, list and dict ({error})") from None


def _few(classes: Sequence[Any]) -> str:
    """What of several images is explained."""
    return f"{', '.join(map(str, classes[:3]))}{', ...' * (len(classes) > 3)} ({len(classes)} images)"


def _facts(explanation: Record, about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What holds for all images."""
    method = methods.METHODS[explanation.method]
    model: dict[str, Any] = dict(about.get("model", {}))
    if explanation.origin is not None:
        module = explanation.origin.model
        model.setdefault("class", f"{type(module).__module__}.{type(module).__qualname__}")
        if "weights_sha256" not in model:
            model["weights_sha256"] = weights_sha256(module)
    config = explanation.config
    facts = {
        "image": {"height": explanation.size[0], "width": explanation.size[1], **about.get("image", {})},
        "model": model,
        "method": {
            "name": explanation.method,
            "title": method.title,
            "paper": method.paper,
            "config": None if config is None else asdict(config),
            "layers": [{"name": layer.name, "reason": layer.reason} for layer in explanation.layers],
            "map_height": explanation.raw_maps.shape[-2],
            "map_width": explanation.raw_maps.shape[-1],
            "device": str(explanation.raw_maps.device),
            **about.get("method", {}),
        },
        "versions": {
            "cfcam_gpu": __version__,
            "python": platform.python_version(),
            **{name: environment.version(*environment.PACKAGES[name]) for name in _PACKAGES},
            "pillow": environment.version("pillow"),
        },
    }
    if "expected" in about:
        facts["expected"] = dict(about["expected"])
    return facts


def _figures(trust: Trust, b: int) -> dict[str, Any]:
    """The figures of one image."""
    values = {
        name: getattr(trust, name) for name in ("flip", "noise", "agreement", "gap", "runner_up", "runner_up_empty")
    }
    return {
        "words": trust.words(b),
        **{name: None if value is None else value[b].item() for name, value in values.items()},
    }


def _limits(explanation: Record, record: saving.Line, facts: Mapping[str, Any], *, measured: bool) -> list[str]:
    """What the map does not show, in words; what takes all meaning from it comes first."""
    grid = " x ".join(map(str, explanation.raw_maps.shape[-2:]))
    size = " x ".join(map(str, explanation.size))
    said = []
    if facts["model"].get("random_weights"):
        said.append("The model's weights are random: this map means nothing.")
    if record["empty"]:
        said.append("The map is empty: at this layer no position speaks for the class.")
    if not facts["model"].get("weights_sha256"):
        said.append("The weights of the model were not known any more when this was written: the map can't be checked.")
    return [
        *said,
        "The map shows where the model finds evidence for the explained class. It does not show why, and not whether "
        "the model is right.",
        f"It has the resolution of the layer, {grid} positions, and was enlarged to {size}: finer edges are not the "
        "model's.",
        "It is divided by its own maximum: colours say what is strong within this map, and can't be compared with "
        "those of another.",
        f"{methods.METHODS[explanation.method].title} is one of several methods, and others may mark other places.",
        *([] if measured else ["Nothing was measured of how stable the map is, and how well it tells classes apart."]),
    ]


def _draw(explanation: Record, images: torch.Tensor, file: IO[bytes]) -> None:
    figures.figure(explanation, images).savefig(file, format="pdf")


def _plain(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
