"""Fonts for names, which are of any script: matplotlib's own has no Chinese, Japanese or Korean."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, FontProperties
from matplotlib.ft2font import FT2Font

#: Fonts that have a box for each letter instead of the letter.
_BOXES = ("last resort", "lastresort", "adobe blank", "unicode bmp fallback")
#: What is told of letters begins so.
_TOPIC = "names: "
#: Letters that are told, at most.
_TOLD = 8


def families(texts: Iterable[str]) -> tuple[list[str], str]:
    """Families for matplotlib's text: those of the user's settings, and behind them others for letters that they lack.

    Parameters
    ----------
    texts : iterable of str

    Returns
    -------
    families : list of str
        Empty where the user's own have all letters, or no font has more of them.
    lacking : str
        The letters that no font has.
    """
    own = list(matplotlib.rcParams["font.family"])
    files = [font_manager.findfont(FontProperties(family=[family])) for family in own]
    more, lacking = _others(_letters(texts, files))
    return [*own, *(entry.name for entry in more)] if more else [], lacking


def file_for(text: str, *, bold: bool = False) -> str:
    """The file of a font for a text that Pillow draws, which takes one: matplotlib's own, or what has more of it."""
    usual = _usual(bold)
    # Some that have Chinese letters have no Latin ones.
    more, _ = _others(_letters([text], [usual]), "".join(sorted(set(text.replace(" ", "")))))
    return more[0].fname if more else usual


def lacking(texts: Iterable[str]) -> str:
    """The letters of texts that no font has."""
    return _others(_letters(texts, [_usual(False)]))[1]


def told(letters: str) -> str:
    """That no font has these letters, and the way out, for people."""
    some = ", ".join(letters[:_TOLD]) + f" and {len(letters) - _TOLD} more" * (len(letters) > _TOLD)
    return (
        f"{_TOPIC}no font that matplotlib knows has {some}; boxes are drawn for them. Install one that has, such as "
        f"Noto Sans CJK, and remove matplotlib's list of fonts in {matplotlib.get_cachedir()}"
    )


@contextmanager
def told_later() -> Iterator[None]:
    """Inside, figures don't warn of letters that no font has: a command tells all of them at its end."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _TOPIC, UserWarning)
        yield


def _usual(bold: bool) -> str:
    """Matplotlib brings along a font that has most of the world's letters."""
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf"))


def _letters(texts: Iterable[str], files: Sequence[str]) -> str:
    """The letters of texts that fonts have not."""
    letters = {letter for text in texts for letter in text if not (letter.isascii() or letter.isspace())}
    for file in files if letters else ():
        letters -= _had(file, letters)
    return "".join(sorted(letters))


def _others(letters: str, beside: str = "") -> tuple[list[FontEntry], str]:
    """Fonts of this machine that have letters, as few as may be, and the letters that none has.

    Of two that have as many of them, the one that has more of those `beside`.
    """
    return _search(letters, beside, len(font_manager.fontManager.ttflist)) if letters else ([], "")


@lru_cache
def _search(letters: str, beside: str, count: int) -> tuple[list[FontEntry], str]:
    """The same; `count` fonts are known."""
    wanted, also, found = set(letters), set(beside), list[FontEntry]()
    fonts = sorted(font_manager.fontManager.ttflist, key=_plainness)
    while wanted:
        best, most = None, (0, 0)
        for entry in fonts:
            if entry.name.lower().startswith(_BOXES) or not (had := _had(entry.fname, wanted)):
                continue
            many = len(had), len(_had(entry.fname, also))
            if many > most:
                best, most = entry, many
            if most == (len(wanted), len(also)):
                break
        if best is None:
            break
        found.append(best)
        wanted -= _had(best.fname, wanted)
    return found, "".join(sorted(wanted))


def _plainness(entry: FontEntry) -> tuple[bool, int, bool, str]:
    """By which the plainest fonts come first: upright, of the usual weight, without serifs."""
    weight = entry.weight if isinstance(entry.weight, int) else font_manager.weight_dict.get(entry.weight, 400)
    return entry.style != "normal", abs(weight - 400), "sans" not in entry.name.lower(), entry.name


def _had(file: str, letters: set[str]) -> set[str]:
    """Those of `letters` that a font has and can draw; none of one that is damaged, gone, or of coloured pictures."""
    try:
        font = FT2Font(file)
        had = {letter for letter in letters if font.get_char_index(ord(letter))}
        if had:
            font.set_size(12, 72)
            font.load_char(ord(min(had)))
    except (OSError, RuntimeError):
        return set()
    return had
