"""Explanations as files: maps, overlays and JSON lines."""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..core.cluster_filter import DEAD, DOMINANT, NOISE
from . import durable
from .record import Record

JSON_LINES = "explanations.jsonl"
TOP = 5

Line = dict[str, Any]


def save(
    explanation: Record,
    folder: str | os.PathLike[str],
    *,
    images: torch.Tensor | None = None,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write an explanation to a folder.

    ``<name>.npy`` is the map, (H, W) float32 in [0, 1]; ``<name>.png`` its overlay, where `images` are given, and of a
    volume ``<name>.tif``, with a page for each slice;
    ``explanations.jsonl`` has a line of JSON for each map: name, files, target, class, probability, the five likeliest
    classes, whether the map is empty, the method, the layers, eps and how many channels are clustered, noise, dominant
    and dead; null where the method has none.
    With several targets an image, ``<name>-<class index>`` names its maps.

    Parameters
    ----------
    explanation : Explanation
        Of B images.
    folder : str or path
        Made if it doesn't exist.
    images : (B, C, H, W), (B, C, D, H, W) or (B, C, L) tensor, optional
        As for :meth:`cfcam_gpu.Explanation.overlay`.
    names : sequence of B str, optional
        Of the images; ``"0000"``, ``"0001"``, ... otherwise. In file names, what isn't a letter, a digit or one of
        ``-_.`` becomes an underscore, and a name that was there before gets a number.
    class_names : sequence of K str, optional
        Of the model's classes; otherwise the explanation's, or ``"class 0"``, ... where it has none.
    overwrite : bool
        Whether files of the same names may be replaced.

    Returns
    -------
    list of Path
        The files, ``explanations.jsonl`` last. Each appears whole or not at all.

    Raises
    ------
    TypeError, ValueError
        If `images`, `names` or `class_names` don't fit the explanation.
    FileExistsError
        If a file is there already and `overwrite` is False; nothing is written then.
    OSError
        If a file can't be written.
    """
    if names is None:
        names = [f"{b:04d}" for b in range(len(explanation))]
    check_names("names", names, len(explanation), "image")
    if class_names is not None and explanation.logits is not None and explanation.logits.ndim == 2:
        check_names("class_names", class_names, explanation.logits.shape[1], "class")
    image_names = map_names = list(names)
    if explanation.several:
        count = explanation.raw_maps.shape[1]
        rows = explanation.target.tolist() if explanation.target is not None else [range(count)] * len(names)
        map_names = [f"{name}-{index}" for name, row in zip(names, rows) for index in row]
        image_names = [name for name, row in zip(names, rows) for _ in row]
    stems = file_names(map_names)
    folder = Path(folder)
    files = file_paths(folder, stems, overlays=images is not None, suffix=_suffix(explanation))
    check_free(files, overwrite=overwrite)
    overlays = None
    if images is not None:
        overlays = explanation.overlay(images).flatten(0, int(explanation.several)).cpu().numpy()
    records = write(explanation, folder, stems, overlays=overlays, class_names=class_names)
    write_lines(folder / JSON_LINES, ({"name": name, **record} for name, record in zip(image_names, records)))
    return files


def file_names(names: Iterable[str], *, taken: Iterable[str] = (), endings: Sequence[str] = ("",)) -> list[str]:
    """Distinct file names, without suffix, that stay in their folder: one for each of `names`, the same every time.

    Distinct without regard to case, as some file systems see it, whichever of `endings` follows. `taken` are not given
    out.
    """
    used = {name.casefold() for name in taken}
    result = []
    for name in names:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in unicodedata.normalize("NFC", name))
        # 150 bytes leave room for a number, a suffix and the temporary name within the usual 255.
        plain = plain.encode()[:150].decode(errors="ignore").strip(".") or "unnamed"
        candidate, count = plain, 1
        while any((candidate + ending).casefold() in used for ending in endings):
            count += 1
            candidate = f"{plain}-{count}"
        used.update((candidate + ending).casefold() for ending in endings)
        result.append(candidate)
    return result


def file_paths(folder: Path, stems: Iterable[str], *, overlays: bool, suffix: str = ".png") -> list[Path]:
    """The files that :func:`write` and :func:`write_lines` will make; overlays with `suffix`."""
    suffixes = (".npy", suffix) if overlays else (".npy",)
    return [*(folder / f"{stem}{suffix}" for stem in stems for suffix in suffixes), folder / JSON_LINES]


def check_free(files: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises
    ------
    NotADirectoryError
        If a file stands in the place of a folder of `files`.
    FileExistsError
        If one of `files` exists and `overwrite` is False.
    """
    for folder in {file.parent for file in files}:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; expected a folder for the results, there or new")
    existing = [] if overwrite else [file for file in files if os.path.lexists(file)]
    if existing:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        raise FileExistsError(
            f"{', '.join(map(str, existing[:3]))}{more} would be written over; allow it with overwrite (--overwrite), "
            "or choose another folder"
        )


def write(
    explanation: Record,
    folder: Path,
    stems: Sequence[str],
    *,
    overlays: NDArray[np.uint8] | None,
    class_names: Sequence[str] | None,
) -> list[Line]:
    """Write maps and overlays under their names, and return what JSON says of them: for :func:`write_lines`, then.

    Parameters
    ----------
    explanation : Explanation
        Of N maps, B or B x T.
    folder : Path
    stems : N str
        See :func:`file_names`.
    overlays : (N, H, W, 3) uint8 array, of volumes (N, D, H, W, 3), or None
    class_names : K str or None
        None are the explanation's.
    """
    maps = explanation.maps.flatten(0, int(explanation.several)).cpu().numpy()
    records = describe(explanation, class_names)
    folder.mkdir(parents=True, exist_ok=True)
    for i, stem in enumerate(stems):
        files = {"map": f"{stem}.npy"}
        with durable.replacing(folder / files["map"], last=False) as file:
            np.save(file, maps[i])
        if overlays is not None:
            files["overlay"] = f"{stem}{_suffix(explanation)}"
            with durable.replacing(folder / files["overlay"], last=False) as file:
                _save_picture(overlays[i], file)
        records[i] = {**files, **records[i]}
    return records


def describe(explanation: Record, class_names: Sequence[str] | None = None) -> list[Line]:
    """What is known of each map, B or B x T of them, as JSON takes it; None are the explanation's own names."""

    def name(index: int) -> str:
        return class_names[index] if class_names is not None else explanation.name_of(index)

    per_image = explanation.raw_maps.shape[1] if explanation.several else 1
    logits = explanation.logits
    # Of a model that gives each image no row of class scores, neither classes nor probabilities are known.
    shares = explanation.probabilities_of(logits.cpu()) if logits is not None and logits.ndim == 2 else None
    targets = None if explanation.target is None else explanation.target.flatten().tolist()
    empty = explanation.empty.flatten().tolist()
    labels = None if explanation.labels is None else explanation.labels.flatten(0, -2).cpu().numpy()
    eps = None if explanation.eps is None else explanation.eps.flatten().tolist()
    records = []
    for i in range(len(empty)):
        record: Line = {"target": None, "class": None, "probability": None, "top": []}
        if shares is not None:
            row = shares[i // per_image]
            best = row.topk(min(TOP, len(row)))
            record["top"] = [
                {"target": k, "class": name(k), "probability": _finite(p)}
                for k, p in zip(best.indices.tolist(), best.values.tolist())
            ]
            if targets is not None:
                k = targets[i]
                record |= {"target": k, "class": name(k), "probability": _finite(row[k].item())}
        record |= {
            "empty": empty[i],
            "method": explanation.method,
            "layers": [layer.name for layer in explanation.layers],
            **_channels(None if labels is None else labels[i]),
            "eps": None if eps is None else _finite(eps[i]),
        }
        records.append(record)
    return records


def _channels(labels: NDArray[np.int64] | None) -> Line:
    """How many channels there are of each kind; None where they have no labels."""
    kinds = {"noise": NOISE, "dominant": DOMINANT, "dead": DEAD}
    if labels is None:
        return dict.fromkeys(("channels", "clusters", *kinds))
    clusters = len(set(labels[labels >= 0].tolist()))
    counts = {key: int((labels == value).sum()) for key, value in kinds.items()}
    return {"channels": len(labels), "clusters": clusters, **counts}


def _suffix(explanation: Record) -> str:
    """Of the files of overlays: a volume's has a page for each slice."""
    return ".tif" if len(explanation.size) == 3 else ".png"


def _save_picture(pixels: NDArray[np.uint8], file: IO[bytes]) -> None:
    """Write (H, W, 3) as PNG, or slices (D, H, W, 3) as pages of a TIFF."""
    if pixels.ndim == 3:
        Image.fromarray(pixels).save(file, format="PNG")
        return
    first, *rest = (Image.fromarray(page) for page in pixels)
    first.save(file, format="TIFF", save_all=True, append_images=rest, compression="tiff_deflate")


def write_lines(path: Path, records: Iterable[Line]) -> None:
    """Write one line of JSON for each record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable.replacing(path) as file:
        file.writelines(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check_names(argument: str, names: Sequence[str], count: int, of: str) -> None:
    """Refuse what are no `count` names, one for each `of`.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument}: expected a sequence of str; got {names!r:.80}")
    if len(names) != count:
        raise ValueError(f"{argument}: expected {count}, one for each {of}; got {len(names)}")
