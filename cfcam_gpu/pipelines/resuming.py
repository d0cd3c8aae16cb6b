"""What a job is: what was asked, of which images, and what model and method make of an example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch

from ..results import durable
from ..results.explanation import Explanation
from ..sources.items import plain_text
from .manifest import MANIFEST
from .store import DICOM, MAPS, OVERLAYS, PARTS, ChangedError, damaged

JOB = "job.json"
EXAMPLE = "example.safetensors"
ORDER = "order.parquet"
FORMAT = 2

#: How far an example's values may be apart, of the largest: as far as rounding takes them from one machine, or one of
#: a GPU's algorithms, to another. At the radius of a cluster a map takes a step.
TOLERANCES = {"images": 1e-3, "inputs": 1e-3, "logits": 1e-3, "maps": 0.02}
#: Of an example, and of the model's input that is made of it, so many values are kept.
SAMPLES = 4096

_OURS = [MANIFEST, PARTS, MAPS, OVERLAYS, DICOM, EXAMPLE, ORDER, JOB]

Example = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Job:
    """What a folder's ``job.json`` says.

    Parameters
    ----------
    source : str
        Where the images come from, for people.
    asked : mapping
        All that the results depend on, as JSON has it.
    stamps : str
        Digest of the times of change of the images' files; empty for images that aren't in files.
    """

    source: str
    asked: Mapping[str, Any]
    stamps: str = ""

    def write(self, folder: Path) -> None:
        """Put it into a folder."""
        text = {"format": FORMAT, **vars(self)}
        durable.write(folder / JOB, json.dumps(text, indent=2, sort_keys=True).encode() + b"\n")

    @classmethod
    def of(cls, source: str, asked: Mapping[str, Any], stamps: str) -> Job:
        """What is asked now, as JSON will have it."""
        return cls(source, json.loads(json.dumps(asked)), stamps)


def found(folder: Path, *, restart: bool) -> Job | None:
    """The job whose results a folder has, or None where it has none; dropped with `restart`.

    Raises
    ------
    ChangedError
        If it is a job's of another release.
    FileExistsError
        If results of no job are there.
    OSError
    """
    text = _read(folder / JOB)
    if text is None:
        there = [name for name in _OURS if (folder / name).exists()]
        if JOB in there and len(there) > 1 and not _is_json(folder / JOB) and {EXAMPLE, MAPS, PARTS} & set(there):
            raise FileExistsError(
                f"out: {folder} has {', '.join(there)}, of which {JOB} is empty or cut off, as a full disk or half a "
                "copy leaves it: put a whole copy in its place, delete the folder, or choose another one"
            )
        if there:
            raise FileExistsError(f"out: {folder} has {', '.join(there)} of no job; choose another folder")
        return None
    if restart:
        for name in _OURS:
            durable.remove(folder / name)
        return None
    if text["format"] != FORMAT:
        raise ChangedError(
            f"out: {folder} is a job's of another release; choose another folder, or drop it (--restart)"
        )
    return Job(text["source"], text["asked"], text.get("stamps", ""))


def example_of(result: Explanation, images: torch.Tensor, inputs: torch.Tensor) -> Example:
    """What is kept of an explanation of one image.

    Parameters
    ----------
    result : Explanation
    images : tensor
        The image as it came.
    inputs : tensor
        As the model got it.
    """
    assert result.logits is not None  # the predicted class was asked for
    some = {name: value.flatten() for name, value in (("images", images), ("inputs", inputs))}
    kept = {name: value[:: max(1, len(value) // SAMPLES)] for name, value in some.items()}
    kept |= {"logits": result.logits, "maps": result.maps}
    return {name: value.detach().float().cpu().clone() for name, value in kept.items()}


def same_example(folder: Path, example: Example) -> str | None:
    """What of an example is not as it was when the job began; None where nothing is. Keeps it where none is kept.

    Raises
    ------
    ChangedError
        If what was kept can't be read.
    OSError
    """
    path = folder / EXAMPLE
    if not path.exists():
        durable.write(path, safetensors.torch.save(example))
        return None
    try:
        before = safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise damaged(path, error) from None
    said = {
        "images": "the first image of the data set is another one",
        "inputs": "what prepare, or the preparation, makes of an image is something else now",
        "logits": "the model's output for an image is something else now, with the same weights: its code has changed",
        "maps": "the map of an image is something else now, with the same model: the method's code has changed",
    }
    return next(
        (what for name, what in said.items() if not _close(before.get(name), example[name], TOLERANCES[name])), None
    )


def differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What is asked now that was not asked before, for people."""
    said = []
    for key in sorted({*before, *asked}):
        if before.get(key) == asked.get(key):
            continue
        if key == "fingerprint":
            said.append("the images' names, sizes or targets have changed, or how they are prepared")
        elif key == "model":
            said.append("the model or its weights have changed")
        elif key == "class_names":
            said.append("the names of the classes have changed")
        else:
            said.append(f"{key} was {before.get(key)}, is {asked.get(key)}")
    return said


def refuse(folder: Path, job: Job, said: Sequence[str]) -> ChangedError:
    """The error that says so."""
    return ChangedError(
        f"out: {folder} has results of another job, begun with {job.source}: {'; '.join(said)}. Choose another "
        "folder, or drop them with restart (--restart)"
    )


def keep_order(folder: Path, sources: Sequence[str]) -> None:
    """Note the order of the images: others may come, with names before theirs."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"source": pa.array(map(plain_text, sources), "string")}), sink, compression="zstd")
    durable.write(folder / ORDER, memoryview(sink.getvalue()))


def order(folder: Path) -> list[str] | None:
    """The order that was noted, if one was.

    Raises
    ------
    ChangedError
        If it can't be read.
    """
    path = folder / ORDER
    if not path.is_file():
        return None
    try:
        names: list[str] = pq.read_table(path)["source"].to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(path, error) from None
    return names


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """What a job said of itself; None where there is no job, whoever's file is there."""
    try:
        text = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return text if isinstance(text, dict) and {"format", "source", "asked"} <= text.keys() else None


def _close(before: torch.Tensor | None, now: torch.Tensor, tolerance: float) -> bool:
    if before is None or before.shape != now.shape:
        return False
    finite = now[now.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(before, now, rtol=0, atol=tolerance * scale, equal_nan=True)
