"""Photographs found: in folders by their suffixes, and what is passed over there counted."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from . import formats
from .formats import SUFFIXES, UnreadableError

#: How what has no suffix is counted, and what is a link to a folder.
NO_SUFFIX = "without a suffix"
LINKED_FOLDER = "linked folder"
#: NumPy's arrays: images of bands, and much else that lies beside photographs, labels and maps for two.
ARRAYS = ".npy"
#: What DICOM calls the table of contents of a folder (PS3.10, section 8.6): of a CD of scans, for one.
_CONTENTS = "DICOMDIR"
#: Kinds of files that :func:`told` names.
_TOLD = 8
#: Suffixes that say what a file is: any other may be part of a name, a patient's for one, and isn't told.
_KNOWN = frozenset(
    (
        *SUFFIXES, NO_SUFFIX, LINKED_FOLDER,
        ".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd", ".raw", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc",
        ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".czi", ".nd2", ".lif", ".qptiff",
        ".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".yaml", ".yml", ".toml", ".log", ".ini",
        ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".py", ".ipynb", ".sh",
        ".npy", ".npz", ".mat", ".h5", ".hdf5", ".parquet", ".arrow", ".pkl", ".pt", ".pth", ".onnx", ".safetensors",
        ".tar", ".tar.gz", ".tgz", ".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar",
        ".svg", ".psd", ".eps", ".ps", ".ico", ".icns", ".xcf", ".pfm", ".exr", ".fits", ".dng", ".cr2", ".cr3", ".nef",
        ".arw", ".raf", ".orf", ".rw2", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wav", ".mp3",
        ".db", ".lnk", ".url", ".tmp", ".bak", ".part", ".cls", ".aux", ".thm", ".aae", ".xmp",
    )
)  # fmt: skip


class Search:
    """The photographs in one folder and its subfolders, in alphabetical order, and a count of what is passed over.

    A file with a suffix in :data:`SUFFIXES` is a photograph, and one without a suffix whose first bytes are those of a
    format that is read. What is hidden (its name starts with a dot) is passed over without being counted, and so is a
    DICOMDIR, which only lists the files. Links to folders are not followed.

    Parameters
    ----------
    folder : Path
    skip : Path or collection of Path
        Folders, resolved, that are not searched: where results go, which are images too.

    Attributes
    ----------
    passed_over : Counter of str
        How many files of each suffix, such as ``".dcm"``, were passed over so far; :data:`NO_SUFFIX` and
        :data:`LINKED_FOLDER` stand among them.
    arrays : list of Path
        NumPy's arrays that were passed over so far, for where there is nothing else.
    """

    #: What is searched for, for people, and its suffixes.
    what = "photographs"
    suffixes = SUFFIXES

    def __init__(self, folder: Path, skip: Path | Collection[Path]) -> None:
        self.folder = folder
        self.skip = frozenset((skip,) if isinstance(skip, Path) else skip)
        self.passed_over: Counter[str] = Counter()
        self.arrays: list[Path] = []

    def __iter__(self) -> Iterator[Path]:
        """Search anew.

        Raises
        ------
        OSError
            If a folder can't be read.
        """
        self.passed_over.clear()
        self.arrays.clear()
        yield from self._within(self.folder)

    def _within(self, folder: Path) -> Iterator[Path]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if path.resolve() not in self.skip:
                    yield from self._within(path)
            elif os.path.isdir(path):  # the entry's own fails of a loop of links
                self.passed_over[LINKED_FOLDER] += 1
            elif entry.name.upper() == _CONTENTS:
                continue
            # A broken link or a pipe is found, too: whoever reads it says what it is.
            elif self.is_one(path, suffix := suffix_of(path)):
                yield path
            else:
                self.passed_over[suffix or NO_SUFFIX] += 1
                if suffix == ARRAYS:
                    self.arrays.append(path)

    def take_arrays(self) -> list[Path]:
        """NumPy's arrays, where there is nothing else in a folder that was searched; they are not passed over then."""
        self.passed_over.pop(ARRAYS, None)
        return self.arrays

    def is_one(self, path: Path, suffix: str) -> bool:
        """Whether a file is searched for."""
        return suffix in SUFFIXES or (suffix == "" and begins_as(path))


def search(folder: Path, skip: Path) -> Iterator[Path]:
    """The photographs in one folder, as :class:`Search` has them."""
    yield from Search(folder, skip)


def find(
    paths: Sequence[Path],
    *,
    skip: Path | Collection[Path],
    passed_over: Counter[str] | None = None,
    search: type[Search] = Search,
    arrays: bool = False,
) -> list[Path]:
    """The photographs that `paths` mean, each once.

    A file is taken as it is. A folder is searched as `search` does.

    Parameters
    ----------
    paths : sequence of Path
    skip : Path or collection of Path
        Folders that are not searched: where results go, which are images too.
    passed_over : Counter of str, optional
        Gets what is passed over in folders; see :func:`told`.
    search : type of Search
        Of something else than photographs, say.
    arrays : bool
        Whether NumPy's arrays can be read: those of a folder that has nothing else are taken then. Beside photographs
        they are more likely labels, or maps.

    Raises
    ------
    FileNotFoundError
        If one of `paths` does not exist.
    OSError
        If a folder can't be read.
    ValueError
        If a folder has none.
    """
    found: dict[Path, Path] = {}
    skipped = {one.resolve() for one in ((skip,) if isinstance(skip, Path) else skip)}
    for path in paths:
        if path.is_dir():
            within = search(path, skipped)
            inside = list(within) or (within.take_arrays() if arrays else [])
            if not inside:
                also = f"; {told(within.passed_over)}" if within.passed_over else ""
                raise ValueError(
                    f"no {search.what} in {path} (looked for {', '.join(sorted(search.suffixes))}{also}); give a "
                    "folder that has some, or files"
                )
            if passed_over is not None:
                passed_over.update(within.passed_over)
        elif path.exists():
            inside = [path]
        else:
            raise FileNotFoundError(f"{path} does not exist{_nearest(path)}")
        for file in inside:
            found.setdefault(Path(os.path.realpath(file)), file)  # resolve() fails of a loop of links
    return list(found.values())


def _nearest(path: Path) -> str:
    """What is there by a name like that, for people."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    if folder != path.absolute().parent:
        return f": in {folder} there is no {path.absolute().relative_to(folder).parts[0]}"
    try:
        near = difflib.get_close_matches(path.name, [name for name in os.listdir(folder) if name[:1] != "."], n=3)
    except OSError:
        near = []
    return f"; nearest: {', '.join(near)}" if near else "; give a photograph or a folder that is there"


def told(passed_over: Counter[str]) -> str:
    """What was passed over, for people, the most frequent first: ``"passed over: 3 .dcm, 1 without a suffix"``."""
    known = [kind for kind in passed_over.items() if kind[0] in _KNOWN]
    kinds = sorted(known, key=lambda kind: (-kind[1], kind[0]))
    said = [f"{count} {kind}{'s' * (kind == LINKED_FOLDER and count > 1)}" for kind, count in kinds[:_TOLD]]
    if rest := passed_over.total() - sum(count for _, count in kinds[:_TOLD]):
        said.append(f"{rest} of other suffixes")
    return f"passed over: {', '.join(said)}"


def suffix_of(path: Path) -> str:
    """The suffix in small letters, that of what is compressed with the one before it: ``".nii.gz"``.

    Empty where there is none, or where what follows the last dot is none: a number (``IMG.0001``, DICOM's UIDs),
    several words, or too long.
    """
    stem, suffix = os.path.splitext(path.name.lower())
    if suffix in (".gz", ".bz2", ".xz", ".zst"):
        suffix = os.path.splitext(stem)[1] + suffix
    last = suffix.rpartition(".")[2]
    return "" if not last or last.isdigit() or " " in last or len(last) > 10 else suffix


def begins_as(path: Path, names: Collection[str] | None = None) -> bool:
    """Whether a file begins as one of a format that is read does, or as one of those of these names."""
    # Opening a pipe would wait for ever.
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            found = formats.recognise(file.read(formats.HEAD))
    except (UnreadableError, OSError):
        return False
    return names is None or found.name in names
