"""Photographs in files explained into files: what ``cfcam-gpu explain`` and ``cfcam-gpu demo`` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .. import methods
from ..core.chunks import Progress
from ..deploy.loading import Deployed
from ..explain.attempts import reason, together_or_alone
from ..explain.cam import CAM
from ..explain.views import Fuse
from ..hooks.target_layer import TargetLayer
from ..results import durable, overlays, saving
from ..results.components import REST, Component
from ..results.explanation import Explanation
from ..scans.dicom.asked import Asked
from ..scans.dicom.source import Source
from . import contact_sheet, dicom_results, exported, loading, models, photos, pictures
from .models import Prepared
from .options import Settings
from .pictures import Picture
from .volumes import Volume

SHEET = "contact_sheet.png"
COMPONENTS = "components.png"
#: Of the name of a photograph's own picture of its components, before the suffix.
COMPONENTS_ENDING = ".components"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Parameters
    ----------
    paths : sequence of Path
        Photographs and folders of them.
    out : Path
        The folder for the results.
    settings : Settings
    targets : sequence of str
        Classes by index or name, each explained of each photograph; none is the predicted class of each.
    fuse : {"mean", "max"} or None
        As for :class:`cfcam_gpu.CAM`.
    batch_size : int
    overwrite : bool
    components : int or None
        How many groups of channels to show of each photograph.
    dicom : Asked or None
        What is written in DICOM of images of DICOM; None for nothing.
    """

    paths: Sequence[Path]
    out: Path
    settings: Settings = field(default_factory=Settings)
    targets: Sequence[str] = ()
    fuse: str | None = None
    batch_size: int = 8
    overwrite: bool = False
    components: int | None = None
    dicom: Asked | None = field(default_factory=Asked)


class Photograph(NamedTuple):
    """One that was read: where from, what each target's results are called, (3, H, W) uint8 pixels, and its pages.

    Of DICOM it has a ``source``, and of a volume, (C, D, H, W) float32, what is kept of it.
    """

    picture: Picture
    stems: Sequence[str]
    pixels: torch.Tensor
    pages: int
    source: Source | None
    volume: Volume | None = None


@dataclass
class Run:
    """A job that was found sound, ready to go.

    ``stems`` has of each picture the names of its results, one for each target. ``passed_over`` counts what was passed
    over in folders; see :func:`cfcam_gpu.photographs.photos.told`. ``records`` are the lines of JSON of what is done,
    ``failed`` the names of the photographs that could not be explained and why, and ``paged`` of those of which there
    are more pages than the first, which was explained. ``began`` is the date of what is written in DICOM.
    """

    job: Job
    pictures: list[Picture]
    stems: list[list[str]]
    passed_over: Counter[str]
    model: Prepared
    explain: CAM | Deployed
    layers: tuple[TargetLayer, ...]
    engine: str
    preset: str | None
    device: torch.device
    class_names: list[str]
    targets: list[int]
    records: list[saving.Line] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    paged: list[tuple[str, int]] = field(default_factory=list)
    entries: list[contact_sheet.Entry] = field(default_factory=list)
    rows: list[contact_sheet.Row] = field(default_factory=list)
    began: datetime = field(default_factory=datetime.now)

    #: What is explained, and the suffixes of its files beside the usual ones.
    noun: ClassVar[str] = "photograph"
    suffixes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def find(cls, job: Job, passed_over: Counter[str]) -> list[Picture]:
        """What is explained; `passed_over` gets what is passed over in folders."""
        return pictures.of(photos.find(job.paths, skip=job.out, passed_over=passed_over))

    @property
    def where(self) -> str:
        """The target layers, for people."""
        return f"layer{'s' * (len(self.layers) > 1)} {' and '.join(layer.name for layer in self.layers)}"

    @property
    def title(self) -> str:
        """The method, for people."""
        return methods.find(self.job.settings.method).title

    @property
    def how(self) -> str:
        """What is done where, for people."""
        settings = self.job.settings
        said = [*settings.augment, f"{settings.smooth} noisy copies"] if settings.smooth else list(settings.augment)
        if methods.find(settings.method).cluster_filter:
            preset = "a configuration of its own" if self.preset is None else f"{self.preset} preset"
            said = [preset, f"{self.engine} engine", *said]
        return f"{', '.join(said)}; {self.where}" if said else self.where

    @property
    def sheet(self) -> Path:
        """Where the contact sheet goes."""
        return self.job.out / SHEET

    def execute(self, done: Callable[[int], None], within: Progress | None = None) -> None:
        """Explain all photographs, and write what comes of it; `done` hears how many more are behind us.

        `within` is called with (done, total) in a batch that takes many forwards.

        Raises
        ------
        OSError
            If a file can't be written. What was explained before has its line in ``explanations.jsonl``.
        RuntimeError
            If the device is out of order. The same holds.
        """
        try:
            for first in range(0, len(self.pictures), self.job.batch_size):
                batch = slice(first, first + self.job.batch_size)
                self._explain_batch(self.pictures[batch], self.stems[batch], within)
                done(len(self.pictures[batch]))
        finally:
            if self.records:
                saving.write_lines(self.job.out / saving.JSON_LINES, self.records)
        if self.entries:
            with durable.replacing(self.sheet) as file:
                self._draw().save(file, format="PNG")
        if self.rows:
            self._save_components(self.rows, self.job.out / COMPONENTS)

    def _explain_batch(
        self, pictures: Sequence[Picture], stems: Sequence[Sequence[str]], within: Progress | None
    ) -> None:
        batch = [photograph for picture, own in zip(pictures, stems) if (photograph := self._read(picture, own))]
        if not batch:
            return
        # One photograph may spoil its batch, or the batch be too large for the device.
        for some, found in together_or_alone(lambda some: self._explain(some, within), batch, self.device):
            if isinstance(found, Exception):
                self.failed += [(photograph.picture.name, reason(found)) for photograph in some]
            else:
                self._write(*found, some)

    def _read(self, picture: Picture, stems: Sequence[str]) -> Photograph | None:
        preparation = self.model.preparation
        try:
            page = picture.read(preparation.window)
            dicom_results.check_source(self.job.dicom, page.source)
            return Photograph(picture, stems, preparation.pixels(page.image), page.pages, page.source)
        except photos.UnreadableError as error:
            self.failed.append((picture.name, str(error)))
            return None

    def _explain(
        self, batch: Sequence[Photograph], within: Progress | None
    ) -> tuple[Explanation, list[list[Component]]]:
        pixels = torch.stack([photograph.pixels for photograph in batch]).to(self.device)
        images = self.model.takes.normalize(pixels)
        several = len(self.targets) > 1 or (isinstance(self.explain, Deployed) and self.explain.several)
        target = [self.targets] * len(images) if several else next(iter(self.targets), None)
        if isinstance(self.explain, Deployed):
            result = self.explain(images, target)
        else:
            result = self.explain(images, target, progress=within)
        components = result.components(images, self.job.components, measured=True) if self.job.components else []
        return result, components

    def _write(
        self, result: Explanation, components: Sequence[Sequence[Component]], batch: Sequence[Photograph]
    ) -> None:
        self.paged += [
            (photograph.picture.name, photograph.pages)
            for photograph in batch
            if photograph.pages > 1 and photograph.source is None  # of DICOM each frame is explained
        ]
        # One for each target of each photograph.
        each = [(photograph, stem) for photograph in batch for stem in photograph.stems]
        found, drawn = self._save(result, batch, each)
        about = {"model": self.job.settings.model, "engine": self.engine, "preset": self.preset}
        maps = result.maps.flatten(0, int(result.several)).cpu().numpy()
        for i, ((photograph, stem), (plain, overlay), record) in enumerate(zip(each, drawn, found)):
            entry = contact_sheet.Entry(
                photograph=contact_sheet.thumbnail(plain),
                overlay=contact_sheet.thumbnail(overlay),
                label=record["class"] + (" (empty map)" if record["empty"] else ""),
                probability=record["probability"],
                caption=Path(photograph.picture.name).name,
            )
            if len(self.entries) < contact_sheet.LIMIT:
                self.entries.append(entry)
            if components:
                record = {**record, **self._write_components(entry, components[i], photograph, stem)}
            record = {**record, **self._write_dicom(photograph, stem, maps[i], overlay, record)}
            uids = pictures.refers(photograph.source) if photograph.source is not None else {}
            where = {"file": photograph.picture.name, **uids, "pages": photograph.pages}
            self.records.append({**where, **record, **about})

    def _save(
        self, result: Explanation, batch: Sequence[Photograph], each: Sequence[tuple[Photograph, str]]
    ) -> tuple[list[saving.Line], list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]:
        """Write maps and overlays, and return what JSON says of each, and each alone and with its overlay."""
        pixels = torch.stack([photograph.pixels for photograph in batch])
        overlays = result.overlay(pixels.to(self.device)).flatten(0, int(result.several)).cpu().numpy()
        found = saving.write(
            result, self.job.out, [stem for _, stem in each], overlays=overlays, class_names=self.class_names
        )
        plain = [photograph.pixels.movedim(0, -1).numpy() for photograph, _ in each]
        return found, list(zip(plain, overlays))

    def _coloured(self, values: torch.Tensor, photograph: Photograph) -> NDArray[np.uint8]:
        """A map over what it explains."""
        drawn: NDArray[np.uint8] = overlays.overlay(values[None].cpu(), photograph.pixels[None])[0].numpy()
        return drawn

    def _write_dicom(
        self,
        photograph: Photograph,
        stem: str,
        values: NDArray[np.float32],
        overlay: NDArray[np.uint8],
        record: saving.Line,
    ) -> saving.Line:
        """Write what is asked for in DICOM, and say which files there are, or that it can't be."""
        settings = self.job.settings
        try:
            return dicom_results.write(
                self.job.dicom,
                photograph.source,
                self.model.takes,
                self.job.out,
                stem,
                values,
                overlay,
                record,
                model=settings.model if settings.file is None else settings.file.name,
                number=len(self.records) + 1,
                when=self.began,
            )
        except ValueError as error:
            self.failed.append((photograph.picture.name, f"explained, but not written as DICOM: {error}"))
            return {}

    def _write_components(
        self, entry: contact_sheet.Entry, components: Sequence[Component], photograph: Photograph, stem: str
    ) -> saving.Line:
        """Draw a photograph's components, and say what they are."""
        groups = [component for component in components if component.name != REST]
        drawn = []
        for one in groups:
            overlay = contact_sheet.thumbnail(self._coloured(one.map, photograph))
            drawn.append(contact_sheet.Group(overlay, one.share, len(one.channels), one.probability_without))
        row = contact_sheet.Row(entry, drawn)
        if len(self.rows) < contact_sheet.ROWS:
            self.rows.append(row)
        file = f"{stem}{COMPONENTS_ENDING}.png"
        self._save_components([row], self.job.out / file, last=False)
        return {
            "components_overlay": file,
            "components": [component.describe() for component in components],
        }

    def _save_components(self, rows: Sequence[contact_sheet.Row], path: Path, *, last: bool = True) -> None:
        sheet = contact_sheet.draw_components(
            rows,
            title=f"{self.title} of {self.job.settings.model}, by groups of channels",
            subtitle=self.how,
            alarm=self._alarm,
        )
        with durable.replacing(path, last=last) as file:
            sheet.save(file, format="PNG")

    @property
    def _alarm(self) -> str:
        return "" if self.model.trained else "Random weights: these maps mean nothing"

    def _draw(self) -> Image.Image:
        shown, there = len(self.entries), len(self.records)
        classes = max(1, len(self.targets))
        count = f"{there // classes} {self.noun}{'s' * (there > classes)}"
        if classes > 1:
            count += f", {classes} classes of each"
        if there > shown:
            count += f", the first {shown} {'maps ' * (classes > 1)}here"
        return contact_sheet.draw(
            self.entries,
            title=f"{self.title} of {self.job.settings.model}",
            subtitle=f"{count}; {self.how}",
            alarm=self._alarm,
        )


def check(job: Job, *, kind: type[Run] = Run) -> Run:
    """Find whatever is wrong with a job before any of it is done.

    The photographs are found, the results' names given, the model is loaded, and a blank image is explained.

    Parameters
    ----------
    job : Job
    kind : type of Run
        Of volumes :class:`cfcam_gpu.photographs.volume_job.VolumeRun`.

    Raises
    ------
    FileNotFoundError, FileExistsError, OSError
        If photographs are missing, or results are there already.
    ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layer, target, engine or device can't be what is meant; the message says why.
    """
    _check_components(job)
    passed_over: Counter[str] = Counter()
    images = kind.find(job, passed_over)
    dicom_results.check(job.dicom, images)
    # Of several targets the results are called by the classes, which the model must tell first.
    several = len(job.targets) > 1
    stems = [] if several else _names(job, images, [], kind.suffixes)
    loaded = loading.load_explainer(job.settings, fuse=cast("Fuse | None", job.fuse))
    targets = [models.class_index(target, loaded.class_names) for target in job.targets]
    if twice := [index for index, count in Counter(targets).items() if count > 1]:
        raise ValueError(f"target: {loaded.class_names[twice[0]]} (class {twice[0]}) is given twice")
    exported.check_targets(loaded.explain, job.targets)
    if several:
        stems = _names(job, images, targets, kind.suffixes)
    job.out.mkdir(parents=True, exist_ok=True)
    return kind(job=job, pictures=images, stems=stems, passed_over=passed_over, targets=targets, **vars(loaded))


def _names(job: Job, images: Sequence[Picture], targets: Sequence[int], suffixes: Sequence[str]) -> list[list[str]]:
    """What the results of each picture are called, one name for each of several targets; none is there already."""
    sheets, endings = [SHEET], [""]
    if job.components:
        sheets, endings = [SHEET, COMPONENTS], ["", COMPONENTS_ENDING]
    taken = [Path(name).stem for name in sheets]
    behind = [f"-{index}" for index in targets] or [""]
    stems = saving.file_names(
        (f"{image.stem}{end}" for image in images for end in behind), taken=taken, endings=endings
    )
    pictures = [f"{stem}{ending}.png" for stem in stems for ending in endings[1:]] + sheets
    outputs = [*saving.file_paths(job.out, stems, overlays=True), *(job.out / name for name in pictures)]
    outputs += [job.out / f"{stem}{suffix}" for stem in stems for suffix in suffixes]
    grouped = [stems[first : first + len(behind)] for first in range(0, len(stems), len(behind))]
    outputs += dicom_results.paths(job.dicom, job.out, images, grouped)
    saving.check_free(outputs, overwrite=job.overwrite)
    return grouped


def _check_components(job: Job) -> None:
    """Refuse what does not go together, before a model is loaded."""
    loading.check(job.settings, fuse=job.fuse, components=job.components)
    if job.components and len(job.targets) > 1:
        raise ValueError(f"components: expected one target at most; got {', '.join(job.targets)}")
