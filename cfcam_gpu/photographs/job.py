"""Photographs in files explained into files: what ``cfcam-gpu explain`` and ``cfcam-gpu demo`` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import torch
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
from . import contact_sheet, exported, loading, models, photos
from .models import Prepared
from .options import Settings

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
    """

    paths: Sequence[Path]
    out: Path
    settings: Settings = field(default_factory=Settings)
    targets: Sequence[str] = ()
    fuse: str | None = None
    batch_size: int = 8
    overwrite: bool = False
    components: int | None = None


class _Photograph(NamedTuple):
    """One that was read: where from, what each target's results are called, (3, H, W) uint8 pixels, and its pages."""

    file: Path
    stems: Sequence[str]
    pixels: torch.Tensor
    pages: int


@dataclass
class Run:
    """A job that was found sound, ready to go.

    ``stems`` has of each file the names of its results, one for each target. ``passed_over`` counts what was passed
    over in folders; see :func:`cfcam_gpu.photographs.photos.told`. ``records`` are the lines of JSON of what is done,
    ``failed`` the photographs that could not be explained and why, and ``paged`` those of which there are more pages
    than the first, which was explained.
    """

    job: Job
    files: list[Path]
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
    failed: list[tuple[Path, str]] = field(default_factory=list)
    paged: list[tuple[Path, int]] = field(default_factory=list)
    entries: list[contact_sheet.Entry] = field(default_factory=list)
    rows: list[contact_sheet.Row] = field(default_factory=list)

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
            for first in range(0, len(self.files), self.job.batch_size):
                batch = slice(first, first + self.job.batch_size)
                self._explain_batch(self.files[batch], self.stems[batch], within)
                done(len(self.files[batch]))
        finally:
            if self.records:
                saving.write_lines(self.job.out / saving.JSON_LINES, self.records)
        if self.entries:
            with durable.replacing(self.sheet) as file:
                self._draw().save(file, format="PNG")
        if self.rows:
            self._save_components(self.rows, self.job.out / COMPONENTS)

    def _explain_batch(self, files: Sequence[Path], stems: Sequence[Sequence[str]], within: Progress | None) -> None:
        batch = [photograph for file, own in zip(files, stems) if (photograph := self._read(file, own))]
        if not batch:
            return
        # One photograph may spoil its batch, or the batch be too large for the device.
        for some, found in together_or_alone(lambda some: self._explain(some, within), batch, self.device):
            if isinstance(found, Exception):
                self.failed += [(photograph.file, reason(found)) for photograph in some]
            else:
                self._write(*found, some)

    def _read(self, file: Path, stems: Sequence[str]) -> _Photograph | None:
        try:
            image, pages = photos.first_page(file)
            return _Photograph(file, stems, self.model.preparation.pixels(image), pages)
        except photos.UnreadableError as error:
            self.failed.append((file, str(error)))
            return None

    def _explain(
        self, batch: Sequence[_Photograph], within: Progress | None
    ) -> tuple[Explanation, list[list[Component]]]:
        pixels = torch.stack([photograph.pixels for photograph in batch]).to(self.device)
        images = self.model.preparation.normalize(pixels)
        several = len(self.targets) > 1 or (isinstance(self.explain, Deployed) and self.explain.several)
        target = [self.targets] * len(images) if several else next(iter(self.targets), None)
        if isinstance(self.explain, Deployed):
            result = self.explain(images, target)
        else:
            result = self.explain(images, target, progress=within)
        return result, result.components(images, self.job.components) if self.job.components else []

    def _write(
        self, result: Explanation, components: Sequence[Sequence[Component]], batch: Sequence[_Photograph]
    ) -> None:
        pixels = torch.stack([photograph.pixels for photograph in batch])
        overlays = result.overlay(pixels.to(self.device)).flatten(0, int(result.several)).cpu().numpy()
        self.paged += [(photograph.file, photograph.pages) for photograph in batch if photograph.pages > 1]
        # One for each target of each photograph.
        each = [(photograph, stem) for photograph in batch for stem in photograph.stems]
        found = saving.write(
            result, self.job.out, [stem for _, stem in each], overlays=overlays, class_names=self.class_names
        )
        about = {"model": self.job.settings.model, "engine": self.engine, "preset": self.preset}
        for i, ((photograph, stem), overlay, record) in enumerate(zip(each, overlays, found)):
            entry = contact_sheet.Entry(
                photograph=contact_sheet.thumbnail(photograph.pixels.movedim(0, -1).numpy()),
                overlay=contact_sheet.thumbnail(overlay),
                label=record["class"] + (" (empty map)" if record["empty"] else ""),
                probability=record["probability"],
                caption=photograph.file.name,
            )
            if len(self.entries) < contact_sheet.LIMIT:
                self.entries.append(entry)
            if components:
                record = {**record, **self._write_components(entry, components[i], photograph, stem)}
            self.records.append({"file": str(photograph.file), "pages": photograph.pages, **record, **about})

    def _write_components(
        self, entry: contact_sheet.Entry, components: Sequence[Component], photograph: _Photograph, stem: str
    ) -> saving.Line:
        """Draw a photograph's components, and say what they are."""
        groups = [component for component in components if component.name != REST]
        drawn = []
        for component in groups:
            overlay = overlays.overlay(component.map[None].cpu(), photograph.pixels[None])[0].numpy()
            drawn.append((contact_sheet.thumbnail(overlay), component.share, len(component.channels)))
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
        count = f"{there // classes} photograph{'s' * (there > classes)}"
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


def check(job: Job) -> Run:
    """Find whatever is wrong with a job before any of it is done.

    The photographs are found, the results' names given, the model is loaded, and a blank image is explained.

    Raises
    ------
    FileNotFoundError, FileExistsError, OSError
        If photographs are missing, or results are there already.
    ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layer, target, engine or device can't be what is meant; the message says why.
    """
    _check_components(job)
    passed_over: Counter[str] = Counter()
    files = photos.find(job.paths, skip=job.out, passed_over=passed_over)
    # Of several targets the results are called by the classes, which the model must tell first.
    several = len(job.targets) > 1
    stems = [] if several else _names(job, files, [])
    loaded = loading.load_explainer(job.settings, fuse=cast("Fuse | None", job.fuse))
    targets = [models.class_index(target, loaded.class_names) for target in job.targets]
    if twice := [index for index, count in Counter(targets).items() if count > 1]:
        raise ValueError(f"target: {loaded.class_names[twice[0]]} (class {twice[0]}) is given twice")
    exported.check_targets(loaded.explain, job.targets)
    if several:
        stems = _names(job, files, targets)
    job.out.mkdir(parents=True, exist_ok=True)
    return Run(job=job, files=files, stems=stems, passed_over=passed_over, targets=targets, **vars(loaded))


def _names(job: Job, files: Sequence[Path], targets: Sequence[int]) -> list[list[str]]:
    """What the results of each file are called, one name for each of several targets; none is there already."""
    sheets, endings = [SHEET], [""]
    if job.components:
        sheets, endings = [SHEET, COMPONENTS], ["", COMPONENTS_ENDING]
    taken = [Path(name).stem for name in sheets]
    behind = [f"-{index}" for index in targets] or [""]
    stems = saving.file_names((f"{file.stem}{end}" for file in files for end in behind), taken=taken, endings=endings)
    pictures = [f"{stem}{ending}.png" for stem in stems for ending in endings[1:]] + sheets
    outputs = [*saving.file_paths(job.out, stems, overlays=True), *(job.out / name for name in pictures)]
    saving.check_free(outputs, overwrite=job.overwrite)
    return [stems[first : first + len(behind)] for first in range(0, len(stems), len(behind))]


def _check_components(job: Job) -> None:
    """Refuse what does not go together, before a model is loaded."""
    loading.check(job.settings, fuse=job.fuse, components=job.components)
    if job.components and len(job.targets) > 1:
        raise ValueError(f"components: expected one target at most; got {', '.join(job.targets)}")
