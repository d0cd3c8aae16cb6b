"""Photographs in files explained into files: what ``cfcam-gpu explain`` and ``cfcam-gpu demo`` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from .. import methods
from ..core.chunks import Progress
from ..deploy.loading import Deployed
from ..explain.attempts import reason, together_or_alone
from ..explain.cam import CAM
from ..explain.views import Fuse
from ..hooks.target_layer import TargetLayer
from ..image_files import photos, pictures
from ..image_files.pictures import Picture
from ..named_models import exported, loading
from ..named_models.models import Prepared
from ..results import fonts, overlays, saving
from ..results.explanation import Explanation
from ..results.parts import part
from ..targets.names import class_index
from . import contact_sheet, dicom_results, evidence_folders, expected, result_files
from .asked import Found, Job, Photograph
from .expected import Compared
from .result_files import COMPONENTS, COMPONENTS_ENDING, EVIDENCE, SHEET
from .sheets import Sheets


@dataclass
class Run:
    """A job that was found sound, ready to go.

    ``stems`` has of each picture the names of its results, one for each target. ``passed_over`` counts what was passed
    over in folders; see :func:`cfcam_gpu.image_files.photos.told`. ``records`` are the lines of JSON of what is done,
    ``failed`` the names of the photographs that could not be explained and why, and ``paged`` of those of which there
    are more pages than the first, which was explained. ``began`` is the date of what is written in DICOM. ``expected``
    is the class that is set against the predicted one, and ``known`` what folders of evidence have of the job.
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
    names_from: loading.NamesFrom
    nobody_said: tuple[str, ...]
    targets: list[int]
    expected: int | None = None
    known: evidence_folders.Facts | None = None
    records: list[saving.Line] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    paged: list[tuple[str, int]] = field(default_factory=list)
    began: datetime = field(default_factory=datetime.now)
    sheets: Sheets = field(init=False)

    #: What is explained, and the suffixes of its files beside the usual ones.
    noun: ClassVar[str] = "photograph"
    suffixes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        alarm = "" if self.model.trained else "Random weights: these maps mean nothing"
        self.sheets = Sheets(f"{self.title} of {self.job.settings.model}", self.how, alarm)

    @classmethod
    def find(cls, job: Job, passed_over: Counter[str]) -> list[Picture]:
        """What is explained; `passed_over` gets what is passed over in folders."""
        return pictures.of(photos.find(job.paths, skip=job.results, passed_over=passed_over, arrays=True))

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
        if self.sheets.entries:
            self.sheets.save(self.sheet, self._count)
        if self.sheets.rows:
            self.sheets.save_components(self.job.out / COMPONENTS)

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
                self._write(found, some)

    def _read(self, picture: Picture, stems: Sequence[str]) -> Photograph | None:
        preparation = self.model.preparation
        try:
            page = picture.read(preparation)
            dicom_results.check_source(self.job.dicom, page.source)
            return Photograph(picture, stems, preparation.pixels(page.image), page.pages, page.source)
        except photos.UnreadableError as error:
            self.failed.append((picture.name, str(error)))
            return None

    def _explain(self, batch: Sequence[Photograph], within: Progress | None) -> Found:
        pixels = torch.stack([photograph.pixels for photograph in batch]).to(self.device)
        images = self.model.takes.normalize(pixels)
        several = len(self.targets) > 1 or (isinstance(self.explain, Deployed) and self.explain.several)
        target = [self.targets] * len(images) if several else next(iter(self.targets), None)
        if isinstance(self.explain, Deployed):
            return Found(self._named(self.explain(images, target)), [], [None] * len(batch), None)
        result = self._named(self.explain(images, target, progress=within))
        return Found(
            result,
            result.components(images, self.job.components, measured=True) if self.job.components else [],
            [None] * len(batch)
            if self.expected is None
            else expected.compare(self.explain, images, result, self.expected, within),
            None if self.known is None else result.trust(images),
        )

    def _named(self, result: Explanation) -> Explanation:
        """The same with the names of classes that the job has, which may be others than the model's own."""
        return result if result.class_names is not None else replace(result, class_names=tuple(self.class_names))

    def _write(self, found: Found, batch: Sequence[Photograph]) -> None:
        self.paged += [
            (photograph.picture.name, photograph.pages)
            for photograph in batch
            if photograph.pages > 1 and photograph.source is None  # of DICOM each frame is explained
        ]
        result = found.result
        # One for each target of each photograph.
        each = [(photograph, stem) for photograph in batch for stem in photograph.stems]
        lines, drawn = self._save(result, batch, each)
        about = {"model": self.job.settings.model, "engine": self.engine, "preset": self.preset}
        maps = result.maps.flatten(0, int(result.several)).cpu()
        for i, ((photograph, stem), (plain, overlay), record) in enumerate(zip(each, drawn, lines)):
            entry = contact_sheet.Entry(
                photograph=contact_sheet.thumbnail(plain),
                overlay=contact_sheet.thumbnail(overlay),
                label=record["class"] + (" (empty map)" if record["empty"] else ""),
                probability=record["probability"],
                caption=Path(photograph.picture.name).name,
            )
            self.sheets.add(entry)
            if found.components:
                file = f"{stem}{COMPONENTS_ENDING}.png"
                coloured = partial(self._coloured, photograph=photograph)
                self.sheets.add_components(entry, found.components[i], coloured, self.job.out / file)
                told = [component.describe() for component in found.components[i]]
                record = {**record, "components_overlay": file, "components": told}
            seen = [plain, overlay]
            if self.expected is not None:
                compared = self._compare(found.compared[i], photograph, self.job.out, stem, seen, record)
                record = {**record, "expected": compared}
            record = {**record, **self._write_dicom(photograph, stem, maps[i].numpy(), overlay, record)}
            uids = pictures.refers(photograph.source) if photograph.source is not None else {}
            where = {"file": photograph.picture.name, **uids, "pages": photograph.pages}
            if self.known is not None:
                record = {**record, **self._write_evidence(found, i, photograph, stem, seen, record, where)}
            self.records.append({**where, **record, **about})

    def _compare(
        self,
        compared: Compared | None,
        photograph: Photograph,
        folder: Path,
        stem: str,
        seen: Sequence[NDArray[np.uint8]],
        record: saving.Line,
    ) -> saving.Line:
        """Write what there is of the expected class, and say it; `seen` are the photograph and its overlay."""
        assert self.expected is not None
        if compared is None:
            return expected.said(self.expected, record["probability"], self.class_names, is_predicted=True)
        drawn = [*seen, *(self._coloured(one, photograph) for one in compared.maps)]
        caption = Path(photograph.picture.name).name
        return expected.write(compared, folder, stem, drawn, self.class_names, caption)

    def _write_evidence(
        self,
        found: Found,
        i: int,
        photograph: Photograph,
        stem: str,
        seen: Sequence[NDArray[np.uint8]],
        record: saving.Line,
        where: saving.Line,
    ) -> saving.Line:
        assert self.known is not None
        folder = self.job.out / EVIDENCE
        compared = None
        if self.expected is not None:
            (folder / stem).mkdir(parents=True, exist_ok=True)
            compared = self._compare(found.compared[i], photograph, folder / stem, "map", seen, record)
        evidence_folders.write(
            part(found.result, [i]),
            folder,
            stem,
            photograph.pixels,
            photograph.picture.file,
            known=self.known,
            image=where,
            expected=compared,
            trust=evidence_folders.part_of(found.trust, i),
        )
        return {"evidence": f"{EVIDENCE}/{stem}"}

    def _save(
        self, result: Explanation, batch: Sequence[Photograph], each: Sequence[tuple[Photograph, str]]
    ) -> tuple[list[saving.Line], list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]:
        """Write maps and overlays, and return what JSON says of each, and each alone and with its overlay."""
        pixels = torch.stack([photograph.pixels for photograph in batch]).to(self.device)
        overlays = result.overlay(pixels).flatten(0, int(result.several)).cpu().numpy()
        plain = result.overlay(pixels, alpha=0.0).flatten(0, int(result.several)).cpu().numpy()
        stems = [stem for _, stem in each]
        found = saving.write(result, self.job.out, stems, overlays=overlays, class_names=self.class_names)
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

    @property
    def lacking(self) -> str:
        """The letters of classes and photographs that no font has: there are boxes on pictures."""
        named = [record["class"] for record in self.records]
        named += [record["expected"]["class"] for record in self.records if self.expected is not None]
        return fonts.lacking([*named, *(Path(record["file"]).name for record in self.records)])

    @property
    def _count(self) -> str:
        """How many there are, for people."""
        shown, there = len(self.sheets.entries), len(self.records)
        classes = max(1, len(self.targets))
        count = f"{there // classes} {self.noun}{'s' * (there > classes)}"
        if classes > 1:
            count += f", {classes} classes of each"
        if there > shown:
            count += f", the first {shown} {'maps ' * (classes > 1)}here"
        return count


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
    job.check()
    passed_over: Counter[str] = Counter()
    images = kind.find(job, passed_over)
    dicom_results.check(job.dicom, images)
    # Of several targets the results are called by the classes, which the model must tell first.
    several = len(job.targets) > 1
    stems = [] if several else _names(job, images, [], kind.suffixes)
    loaded = loading.load_explainer(job.settings, fuse=cast("Fuse | None", job.fuse))
    targets = [class_index(target, loaded.class_names) for target in job.targets]
    if twice := [index for index, count in Counter(targets).items() if count > 1]:
        raise ValueError(f"target: {loaded.class_names[twice[0]]} (class {twice[0]}) is given twice")
    exported.check_targets(loaded.explain, job.targets)
    if several:
        stems = _names(job, images, targets, kind.suffixes)
    awaited = None if job.expected is None else expected.class_of(job.expected, loaded.class_names)
    known = evidence_folders.facts(job.settings, loaded) if job.evidence else None
    if job.fresh:
        job = replace(job, out=result_files.make_new(job.out))
    else:
        job.out.mkdir(parents=True, exist_ok=True)
    return kind(
        job=job,
        pictures=images,
        stems=stems,
        passed_over=passed_over,
        targets=targets,
        expected=awaited,
        known=known,
        **vars(loaded),
    )


def _names(job: Job, images: Sequence[Picture], targets: Sequence[int], suffixes: Sequence[str]) -> list[list[str]]:
    """What the results of each picture are called, one name for each of several targets; none is there already."""
    stems, outputs = result_files.names(
        job.out,
        images,
        targets,
        suffixes,
        dicom=job.dicom,
        components=bool(job.components),
        compared=() if job.expected is None else expected.SUFFIXES,
        evidence=job.evidence,
    )
    if not job.fresh:
        saving.check_free(outputs, overwrite=job.overwrite)
    return stems
