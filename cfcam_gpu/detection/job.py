"""Photographs searched for objects into files: what ``cfcam-gpu detect`` does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..explain.attempts import reason
from ..image_files import photos
from ..image_files.reading import first_page
from ..named_models.loading import device_of
from ..photographs import result_files
from ..results import durable, saving
from .detections import Detections
from .explaining import explain_detections
from .loading import Detector

LINES = "detections.jsonl"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for; see :func:`cfcam_gpu.detection.explain_detections`, and `clip` None, "box" or "mask".

    With `fresh`, where `out` is there already, a folder of its name with a number behind it is taken.
    """

    paths: Sequence[Path]
    out: Path
    threshold: float = 0.5
    top: int = 10
    labels: Sequence[str | int] = ()
    clip: str | None = None
    layers: Sequence[str] = ()
    engine: str = "auto"
    device: str = "auto"
    overwrite: bool = False
    fresh: bool = False


@dataclass
class Run:
    """A job that was found sound, ready to go; `records` are the lines of JSON, `failed` names and reasons."""

    job: Job
    detector: Detector
    files: list[Path]
    stems: list[str]
    device: torch.device
    records: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def execute(self, done: Callable[[int], None]) -> None:
        """Explain all photographs, one by one, and write what comes of it.

        Raises
        ------
        OSError
            If a file can't be written.
        """
        for file, stem in zip(self.files, self.stems):
            try:
                photograph = first_page(file).image
                assert isinstance(photograph, Image.Image)
                found = self._explained(photograph)
            except OSError as error:
                self.failed.append((str(file), str(error)))
            except (ValueError, TypeError, RuntimeError) as error:
                self.failed.append((str(file), reason(error)))
            else:
                self._write(file, stem, photograph, found)
            done(1)
        lines = "".join(f"{json.dumps(record)}\n" for record in self.records)
        with durable.replacing(self.job.out / LINES) as into:
            into.write(lines.encode())

    def _explained(self, photograph: Image.Image) -> Detections:
        job = self.job
        image = self.detector.prepare(photograph).to(self.device)
        (found,) = explain_detections(
            self.detector.module,
            image[None],
            threshold=job.threshold,
            top=job.top,
            labels=list(job.labels) or None,
            target_layer=list(job.layers) or None,
            engine=job.engine,
            class_names=self.detector.names,
        )
        return found if job.clip is None else found.clipped("mask" if job.clip == "mask" else "box")

    def _write(self, file: Path, stem: str, photograph: Image.Image, found: Detections) -> None:
        """Pictures at the size of the model's input, and boxes in the photograph's own pixels."""
        height, width = found.size
        seen = torch.from_numpy(np.array(photograph.resize((width, height), Image.Resampling.BILINEAR))).movedim(-1, 0)
        seen = seen.to(self.device)
        overlays, maps = found.overlay(seen), found.maps.cpu().numpy()
        self._save_picture(f"{stem}.png", found.picture(seen))
        scale = np.array([photograph.width / width, photograph.height / height] * 2)
        for i, record in enumerate(found.describe()):
            name = f"{stem}-{i + 1}"
            with durable.replacing(self.job.out / f"{name}.npy", last=False) as into:
                np.save(into, maps[i])
            self._save_picture(f"{name}.png", overlays[i])
            box = [round(float(side), 2) for side in scale * np.array(record["box"])]
            about = {"file": str(file), "number": i + 1, "map": f"{name}.npy", "overlay": f"{name}.png"}
            self.records.append({**about, **record, "box": box})

    def _save_picture(self, name: str, pixels: torch.Tensor) -> None:
        with durable.replacing(self.job.out / name, last=False) as into:
            Image.fromarray(pixels.cpu().numpy()).save(into, format="PNG")


def check(job: Job, load: Callable[[], Detector]) -> Run:
    """Find whatever is wrong with a job before any of it is done.

    Parameters
    ----------
    job : Job
    load : callable
        Loads the detector, once the photographs are found.

    Raises
    ------
    FileNotFoundError, FileExistsError, OSError
        If photographs are missing, or results are there already.
    ImportError, TypeError, ValueError, RuntimeError
        If an argument can't be what is meant; the message says why.
    """
    passed_over: Counter[str] = Counter()
    results = result_files.earlier(job.out, LINES) if job.fresh else job.out
    files = list(photos.find(job.paths, skip=results, passed_over=passed_over))
    numbers = [f"-{i + 1}" for i in range(job.top)]
    stems = saving.file_names([file.stem for file in files], endings=["", *numbers])
    ends = [".png", *(f"{number}{suffix}" for number in numbers for suffix in (".npy", ".png"))]
    outputs = [job.out / f"{stem}{end}" for stem in stems for end in ends]
    if not job.fresh:
        saving.check_free([*outputs, job.out / LINES], overwrite=job.overwrite)
    device = device_of(job.device)
    detector = load()
    run = Run(job, detector, files, stems, device)
    detector.module.to(device)
    if job.clip == "mask" and getattr(getattr(detector.module, "roi_heads", None), "mask_head", None) is None:
        raise ValueError("clip: expected box, as this detector returns no masks of instances; got mask")
    # A photograph of noise finds layers, classes and options that can't be meant. A blank one may leave nothing active.
    run._explained(Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)))
    if job.fresh:
        run.job = replace(job, out=result_files.make_new(job.out))
    else:
        job.out.mkdir(parents=True, exist_ok=True)
    return run
