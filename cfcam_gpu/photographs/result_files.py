"""What the results of a job are called, and the folder that they go to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..image_files.pictures import Picture
from ..results import saving
from ..scans.dicom.asked import Asked
from . import dicom_results

SHEET = "contact_sheet.png"
COMPONENTS = "components.png"
#: Of the name of a photograph's own picture of its components, before the suffix.
COMPONENTS_ENDING = ".components"
#: The folder of the folders of evidence, one for each photograph.
EVIDENCE = "evidence"


def names(
    folder: Path,
    images: Sequence[Picture],
    targets: Sequence[int],
    suffixes: Sequence[str],
    *,
    dicom: Asked | None,
    components: bool,
    compared: Sequence[str],
    evidence: bool,
) -> tuple[list[list[str]], list[Path]]:
    """What the results of each picture are called, one name for each of several targets, and all files and folders.

    Parameters
    ----------
    folder : Path
        For the results.
    images : sequence of Picture
    targets : sequence of int
        Several classes that are explained of each; else none.
    suffixes : sequence of str
        Of the files that a volume has beside the usual ones.
    dicom : Asked or None
    components : bool
        Whether their pictures are written.
    compared : sequence of str
        What ends the names, with a suffix, of the files of a comparison of classes.
    evidence : bool
        Whether folders of evidence are written.
    """
    sheets = [SHEET, COMPONENTS] if components else [SHEET]
    endings = ["", *([COMPONENTS_ENDING] if components else []), *(Path(name).stem for name in compared)]
    taken = [Path(name).stem for name in sheets]
    behind = [f"-{index}" for index in targets] or [""]
    stems = saving.file_names(
        (f"{image.stem}{end}" for image in images for end in behind), taken=taken, endings=list(dict.fromkeys(endings))
    )
    outputs = [*saving.file_paths(folder, stems, overlays=True), *(folder / name for name in sheets)]
    own = [*([f"{COMPONENTS_ENDING}.png"] if components else []), *compared, *suffixes]
    outputs += [folder / f"{stem}{end}" for stem in stems for end in own]
    outputs += [folder / EVIDENCE / stem for stem in stems if evidence]
    grouped = [stems[first : first + len(behind)] for first in range(0, len(stems), len(behind))]
    outputs += dicom_results.paths(dicom, folder, images, grouped)
    return grouped, outputs


def earlier(folder: Path, lines: str = saving.JSON_LINES) -> list[Path]:
    """The folder, and those of its name with a number behind it and a file `lines`, which :func:`make_new` made."""
    if not folder.parent.is_dir():
        return [folder]
    start = f"{folder.name}-"
    alike = (path for path in folder.parent.iterdir() if path.name.startswith(start))
    return [
        folder,
        *(path for path in alike if path.name.removeprefix(start).isdecimal() and (path / lines).is_file()),
    ]


def make_new(folder: Path) -> Path:
    """Make the folder, or where that is there, the first of its name with a number behind it that is not.

    Of two processes that do so at once each gets its own.

    Returns
    -------
    Path
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    number, path = 1, folder
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = folder.with_name(f"{folder.name}-{number}")
        else:
            return path
