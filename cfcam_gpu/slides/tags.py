"""What a slide's file is, by its tags: its levels, and the reader that gives its right pixels; in a worker alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree

from ..scans.errors import UnreadableError
from . import scale
from .by_tifffile import in_one_piece, page_at, segment
from .info import Level, SlideInfo
from .readers import EXTRA
from .samples import Samples

#: Formats that OpenSlide knows better than their tags tell: tiles that overlap, several regions, several files.
_OPENSLIDE = {
    "dicom": "DICOM", "hamamatsu": "Hamamatsu", "leica": "Leica", "mirax": "MIRAX", "philips": "Philips",
    "sakura": "Sakura", "trestle": "Trestle", "ventana": "Ventana", "zeiss": "Zeiss",
}  # fmt: skip
#: What Aperio's scanners compress with JPEG 2000 in YCbCr.
_APERIO_YCBCR = 33003
_LZW = 5
#: Compressions by which cuCIM reads tiles right, and tells those that are broken: none, JPEG, deflate.
_FAST = (1, 7, 8, 32946)
_REDUCED, _MASK, _MACRO = 1, 4, 8
#: What begins a line of the description of a picture beside the slide.
_BESIDE = re.compile(r"^\s*(label|macro|overview|thumbnail)\b", re.IGNORECASE | re.MULTILINE)
_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Pages that are looked at.
_PAGES = 1000


def read(path: str) -> SlideInfo:
    """Read a slide's tags.

    Parameters
    ----------
    path : str

    Returns
    -------
    SlideInfo

    Raises
    ------
    OSError
        If the file can't be opened.
    ImportError
        If the library that reads such files is not installed.
    UnreadableError
        If the file is no slide that can be read right.
    """
    with open(path, "rb") as file:
        tiff = file.read(4) in _SIGNATURES
    vendor = _vendor(path)
    if vendor in _OPENSLIDE:
        return _by_openslide(path, f"{_OPENSLIDE[vendor]} slide", "a format that OpenSlide knows")
    if not tiff:
        hint = "" if find_spec("openslide") else f", as far as can be told without OpenSlide: {EXTRA}"
        raise UnreadableError(f"no whole slide: neither a TIFF nor a format that OpenSlide knows{hint}")
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f"slides are read by tifffile, which is not installed: {EXTRA}") from error
    try:
        with tifffile.TiffFile(path) as file:
            foreign = file.is_ndpi or file.is_bif or file.is_scn or file.is_philips
            if foreign and find_spec("openslide") is None:
                raise ImportError(f"it is read by OpenSlide, which is not installed: {EXTRA}")
            return _by_tags(path, file, vendor)
    except (UnreadableError, ImportError, OSError):
        raise
    except Exception as error:  # what a parser stumbles over, in a file whose tags make no sense
        raise UnreadableError(f"a damaged TIFF: {error}") from error


def _vendor(path: str) -> str | None:
    """What OpenSlide takes the file for, where it is installed."""
    if find_spec("openslide") is None:
        return None
    import openslide

    found: str | None = openslide.OpenSlide.detect_format(path)
    return found


def _info(path: str, levels: Sequence[Level], **facts: Any) -> SlideInfo:
    state = os.stat(path)
    width, height = levels[0].width, levels[0].height
    return SlideInfo(path, width, height, tuple(levels), bytes=state.st_size, modified=state.st_mtime_ns, **facts)


def _by_openslide(path: str, kind: str, reason: str) -> SlideInfo:
    import openslide

    try:
        file = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise UnreadableError(f"a {kind} that OpenSlide can't open: {error}") from error
    with file:
        facts = file.properties
        ratios = zip(file.level_dimensions, file.level_downsamples)
        levels = [
            Level(width, height, 1.0 if n == 0 else _ratio(file.dimensions, (width, height)) or float(ratio), (n,))
            for n, ((width, height), ratio) in enumerate(ratios)
        ]
        mpp = scale.pair(*(scale.number(facts.get(f"openslide.mpp-{axis}")) for axis in "xy"))
        magnification = scale.number(facts.get("openslide.objective-power"))
    return _info(path, levels, mpp=mpp, magnification=magnification, kind=kind, reader="openslide", reason=reason)


def _by_tags(path: str, file: Any, vendor: str | None) -> SlideInfo:
    first = file.pages.first
    if int(first.compression) == _APERIO_YCBCR and vendor == "aperio":
        return _by_openslide(path, "Aperio slide", "JPEG 2000 in YCbCr, which OpenSlide turns into RGB")
    kind, magnification, told = "TIFF", None, None
    if file.is_ome:
        kind, places, (told, magnification) = _ome(file)
    else:
        places = _places(file)
    pictures = _pictures(places, [page_at(file, place) for place in places])
    whole = pictures[0][1]
    if file.is_ome and pictures[0][0] != places[0]:
        raise UnreadableError("an OME-TIFF whose finest level is not the largest: save it anew (bfconvert)")
    if first.is_svs and not file.is_ome:
        kind = "Aperio slide"
        told, magnification = scale.of_aperio(whole.description)
    mpp = told or scale.of_tags(whole)
    Samples(whole)
    levels, kept = _levels(pictures)
    _whole(path, kept)
    reason = _why_not_cucim(path, file, levels, kept)
    reader = "tifffile" if reason else "cucim"
    reason = reason or "8-bit RGB tiles that cuCIM reads right"
    facts = {"mpp": mpp, "magnification": magnification, "kind": kind, "reader": reader, "reason": reason}
    return _info(path, levels, **facts)


def _places(file: Any) -> list[tuple[int, ...]]:
    """Where the pages are that may be levels: one after the other, and those within them (SubIFDs)."""
    count = len(file.pages)
    if count > _PAGES:
        raise UnreadableError(f"a TIFF of {count:,} pages, which is a stack and no slide: save one of them")
    first = file.pages.first
    if first.is_imagej and (found := file.imagej_metadata) and found.get("images", 1) > 1:
        raise UnreadableError(f"an ImageJ stack of {found['images']} images: save one of them")
    pages = _pages(file)
    largest = max(pages, key=_area)
    size = largest.imagewidth, largest.imagelength
    same = [page for page in pages if (page.imagewidth, page.imagelength) == size]
    if len(same) > 1:
        raise UnreadableError(
            f"a TIFF with {len(same)} pages of the same size, so that no one is the slide: save one of them"
        )
    return [
        place for n, page in enumerate(pages) for place in ((n,), *((n, m) for m in range(len(page.subifds or ()))))
    ]


def _ome(file: Any) -> tuple[str, list[tuple[int, ...]], tuple[tuple[float, float] | None, float | None]]:
    """Kind, places of levels, and scale of an OME-TIFF: of its largest image, if it is the only large one."""
    series = [each for each in file.series if each.kind == "ome"]
    largest = max(range(len(series)), key=lambda n: series[n].size)
    image = series[largest]
    planes = len(image.pages)
    if any(page is None or page.parent is not file for each in image.levels for page in each.pages):
        raise UnreadableError("an OME-TIFF whose planes are in several files: save it as one")
    if planes > 1:
        axes = dict(zip(image.axes, image.shape))
        what = ", ".join(f"{name} {axes[name]}" for name in axes if name not in "YXS" and axes[name] > 1)
        raise UnreadableError(
            f"an OME-TIFF of {planes} planes ({what}), as of fluorescence or a stack: save the one that is meant, "
            "8-bit RGB (bfconvert -z, -timepoint)"
        )
    others = [each for n, each in enumerate(series) if n != largest and each.size * 4 > image.size]
    if others:
        raise UnreadableError(
            f"an OME-TIFF of {len(others) + 1} images, each as good as the other: save the one that is meant "
            "(bfconvert -series)"
        )
    root = ElementTree.fromstring(file.ome_metadata)
    images = [each for each in root if each.tag.rpartition("}")[2] == "Image"]
    told = scale.of_ome(images[largest], root) if len(images) == len(series) else (None, None)
    places = {page.offset: (n,) for n, page in enumerate(_pages(file))}
    within = {at: (n, m) for n, page in enumerate(_pages(file)) for m, at in enumerate(page.subifds or ())}
    return "OME-TIFF", [{**places, **within}[level.pages[0].offset] for level in image.levels], told


def _pages(file: Any) -> list[Any]:
    """The pages one after the other; tifffile may give some with a part of their tags alone."""
    return [file.pages.get(n) for n in range(len(file.pages))]


def _area(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _kind(page: Any) -> int:
    """A page's NewSubfileType."""
    return int(page.tags.valueof(254, 0))


def _pictures(places: list[tuple[int, ...]], pages: list[Any]) -> list[tuple[tuple[int, ...], Any]]:
    """Places and pages of what may be levels, the largest, which is the slide, first."""
    both = list(zip(places, pages))
    # A page that is marked as something else is that, unless there is nothing else.
    both = [each for each in both if not _kind(each[1]) & (_MASK | _MACRO)] or both
    best = max(both, key=lambda each: _area(each[1]))
    whole = best[1]
    size = int(whole.imagewidth), int(whole.imagelength)
    others = [
        each
        for each in both
        if each is not best and not _BESIDE.search(str(each[1].tags.valueof(270, "")).partition("<")[0])
    ]
    if _kind(whole) & _REDUCED and not all(_kind(page) & _REDUCED for _, page in others):
        raise UnreadableError(
            f"a TIFF whose largest page, {size[0]:,} x {size[1]:,} pixels, is marked as another's reduced one "
            "(NewSubfileType), so that no one is the slide: save one of them"
        )
    if others and others[0][0] < best[0] and _ratio(size, (others[0][1].imagewidth, others[0][1].imagelength)) is None:
        first = others[0][1]
        raise UnreadableError(
            f"a TIFF whose first page, {first.imagewidth:,} x {first.imagelength:,} pixels, is another picture than "
            f"its largest, {size[0]:,} x {size[1]:,}, so that no one is the slide: save one of them"
        )
    return [best, *others]


def _levels(pictures: list[tuple[tuple[int, ...], Any]]) -> tuple[list[Level], list[Any]]:
    """The levels among pictures, the whole one first, without others, masks and thumbnails; and their pages."""
    whole = pictures[0][1]
    found: dict[tuple[int, int], tuple[Level, Any]] = {}
    for place, page in pictures:
        width, height = int(page.imagewidth), int(page.imagelength)
        ratio = 1.0 if page is whole else _ratio((whole.imagewidth, whole.imagelength), (width, height))
        is_level = (
            ratio is not None
            and not _kind(page) & _MASK
            # A thumbnail is a picture for its own sake, beside tiled levels.
            and page.is_tiled == whole.is_tiled
            and page.samplesperpixel == whole.samplesperpixel
            and (width, height) not in found
        )
        if ratio is not None and is_level:
            try:
                Samples(page)
            except UnreadableError:
                continue
            found[width, height] = Level(width, height, ratio, place), page
    both = sorted(found.values(), key=lambda each: each[0].downsample)
    return [level for level, _ in both], [page for _, page in both]


def _ratio(whole: tuple[int, int], part: tuple[int, int]) -> float | None:
    """How many pixels of the whole there are in one of a level's; None of what is no level of it.

    A level's size is rounded one way or the other, so that a whole number which explains it is meant.
    """
    ratios = [large / small for large, small in zip(whole, part)]
    if min(ratios) <= 1:
        return None
    mean = sum(ratios) / 2 if min(part) > 1 else max(zip(part, ratios))[1]
    step = round(mean)
    if all(abs(large / step - small) <= 1 for large, small in zip(whole, part)):
        return float(step)
    if all(abs(large / mean - small) <= 1 for large, small in zip(whole, part)):
        return mean
    return None


def _whole(path: str, pages: list[Any]) -> None:
    """Refuse a file that ends before its tiles do."""
    size = os.path.getsize(path)
    for page in pages:
        rows, columns = segment(page)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        count = planes * -(-page.imagelength // rows) * -(-page.imagewidth // columns)
        # Of what is in one piece, tifffile gives one place for all its planes.
        if len(page.dataoffsets) != len(page.databytecounts) or (
            len(page.dataoffsets) < count and not in_one_piece(page)
        ):
            raise UnreadableError("a damaged TIFF: it does not say where all of its pixels are")
        end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts))
        if end > size:
            raise UnreadableError(f"a TIFF that is cut off: it has {size:,} bytes, and its pixels go on to {end:,}")


def _why_not_cucim(path: str, file: Any, levels: list[Level], pages: list[Any]) -> str | None:
    """Why cuCIM would not read the file right; None if it does."""
    if find_spec("cucim") is None:
        return "cuCIM is not installed"
    if not path.isascii() and os.fsencode(path).decode(errors="replace") != path:
        return "a name that is no UTF-8, which cuCIM does not take"
    for page in pages:
        samples = Samples(page)
        if not page.is_tiled:
            return "strips, which cuCIM reads slowly and wrongly"
        if not samples.plain or page.samplesperpixel != 3 or page.planarconfig != 1:
            return "samples that are not 8-bit RGB beside each other, which cuCIM reads wrongly"
        if int(page.compression) == _LZW:
            return "LZW, of which cuCIM does not tell broken tiles"
        if int(page.compression) not in _FAST:
            return f"tiles of a compression that cuCIM does not read ({page.compression.name})"
        if page.predictor != 1 or page.fillorder != 1:
            return "tiles of differences (Predictor), which end cuCIM with some compressions"
        if not all(page.databytecounts):
            return "tiles that are missing, which cuCIM reads as black"
    if any(len(level.place) > 1 for level in levels):
        return "levels in SubIFDs, which cuCIM does not see"
    # Aperio's are not: cuCIM knows them by their order.
    if not file.is_svs and any(not page.is_reduced for page in pages[1:]):
        return "levels that are not marked as such (NewSubfileType), which cuCIM refuses"
    tiled = [page for page in _pages(file) if page.is_tiled]
    if len(tiled) != len(pages) or [level.place for level in levels] != sorted(level.place for level in levels):
        return "pages that are no levels, or in no order, which cuCIM takes for levels"
    return None
