"""What a model says of a photograph beside what was expected of it: ``cfcam-gpu explain --expected``.

Of a photograph that the model takes for another class than the expected one there are four maps: of the predicted
class, of the expected one, and of each against the other. The first is the one that there is without ``--expected``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import methods
from ..core.chunks import Progress
from ..explain.cam import CAM
from ..results import durable, fonts, sheet
from ..results.explanation import Explanation
from ..results.saving import Line
from ..targets.names import class_index
from ..targets.outputs import probabilities
from ..targets.scores import Contrast

#: Behind the name of a photograph: the picture of all maps, and the maps themselves.
PICTURE = ".expected.png"
MAPS = (".expected.npy", ".expected-against-predicted.npy", ".predicted-against-expected.npy")
SUFFIXES = (PICTURE, *MAPS)
_HEADINGS = ("photograph", "predicted", "expected", "expected against predicted", "predicted against expected")
#: Letters of a name that fit below a picture.
_LETTERS = 34


class Compared(NamedTuple):
    """A photograph whose prediction is not what was expected: maps (3, H, W) and raw emptiness (3,), as in `MAPS`.

    ``predicted`` and ``expected`` are classes, ``shares`` their probabilities.
    """

    maps: torch.Tensor
    empty: list[bool]
    predicted: int
    expected: int
    shares: tuple[float, float]


def check(method: str, targets: Sequence[str], *, exported: bool) -> None:
    """Refuse what has no contrast of two classes, before a model is loaded.

    Raises
    ------
    ValueError
        The message names the way out.
    """
    found = methods.find(method)
    if targets:
        raise ValueError(
            "expected: each photograph's predicted class is set against it, so that no --target goes with it; got "
            f"--target {' --target '.join(targets)}"
        )
    if exported:
        raise ValueError(
            "expected: an exported file explains classes alone, and no contrast of two; give the model itself"
        )
    if found.classes_only or (not found.gradients and found.cost == "nothing"):
        why = "explains classes alone" if found.classes_only else "has the same map for every class"
        raise ValueError(
            f"expected: {found.title} {why}; give a --method that explains a contrast of two, such as cfcam or gradcam"
        )


def class_of(name: str, class_names: Sequence[str]) -> int:
    """The class that is expected, by index or name.

    Raises
    ------
    ValueError
        If there is none, and the message has the nearest names.
    """
    try:
        return class_index(name, class_names)
    except ValueError as error:
        raise ValueError(f"expected{str(error).removeprefix('target')}") from None


def compare(
    explain: CAM, images: torch.Tensor, result: Explanation, expected: int, within: Progress | None
) -> list[Compared | None]:
    """Of each image what there is beside its own explanation; None where the expected class is the predicted one.

    Parameters
    ----------
    explain : CAM
    images : (B, C, H, W) or (B, C, D, H, W) tensor
    result : Explanation
        Of their predicted classes.
    expected : int
    within : callable or None
        As in :meth:`cfcam_gpu.CAM.__call__`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :class:`cfcam_gpu.CAM`.
    """
    assert result.target is not None  # the predicted classes were asked for
    assert result.logits is not None
    predicted = result.target.tolist()
    rows = [row for row, index in enumerate(predicted) if index != expected]
    found: list[Compared | None] = [None] * len(images)
    if not rows:
        return found
    some = images[rows]
    # Two calls: a call has classes or callables, and how a class is scored is the method's own.
    of_class = explain(some, expected, progress=within)
    contrasts = [[Contrast(expected, predicted[row]), Contrast(predicted[row], expected)] for row in rows]
    against = explain(some, contrasts, progress=within)
    maps = torch.cat([of_class.maps[:, None], against.maps], dim=1).cpu()
    empty = torch.cat([of_class.empty[:, None], against.empty], dim=1).tolist()
    shares = probabilities(result.logits.detach().cpu())
    for i, row in enumerate(rows):
        both = float(shares[row, predicted[row]]), float(shares[row, expected])
        found[row] = Compared(maps[i], empty[i], predicted[row], expected, both)
    return found


def write(
    compared: Compared,
    folder: Path,
    stem: str,
    pictures: Sequence[NDArray[np.uint8]],
    class_names: Sequence[str],
    caption: str,
) -> Line:
    """Write a photograph's further maps and the picture of all, and say which files there are.

    Parameters
    ----------
    compared : Compared
    folder : Path
    stem : str
        What the photograph's results are called.
    pictures : five (H, W, 3) uint8 arrays
        The photograph, and in colour over it the map of its predicted class and those of `compared`.
    class_names : sequence of str
    caption : str
        What the photograph is called.
    """
    for suffix, values in zip(MAPS, compared.maps.numpy()):
        with durable.replacing(folder / f"{stem}{suffix}", last=False) as file:
            np.save(file, values)
    with durable.replacing(folder / f"{stem}{PICTURE}", last=False) as file, fonts.told_later():
        _draw(compared, pictures, class_names, caption).savefig(file, format="png")
    of_class, towards, away = (
        {"map": f"{stem}{suffix}", "empty": empty} for suffix, empty in zip(MAPS, compared.empty, strict=True)
    )
    return {
        **said(compared.expected, compared.shares[1], class_names, is_predicted=False),
        **of_class,
        "against_predicted": towards,
        "predicted_against": away,
        "picture": f"{stem}{PICTURE}",
    }


def said(expected: int, share: float | None, class_names: Sequence[str], *, is_predicted: bool) -> Line:
    """What JSON has of the expected class, wherever it is the predicted one or not."""
    return {
        "target": expected,
        "class": class_names[expected],
        "probability": share,
        "is_predicted": is_predicted,
    }


def _draw(
    compared: Compared, pictures: Sequence[NDArray[np.uint8]], class_names: Sequence[str], caption: str
) -> Figure:
    names = [
        textwrap.shorten(class_names[index], _LETTERS - 8, placeholder=" …")
        for index in (compared.predicted, compared.expected)
    ]
    shares = [f"{name}, {share:.1%}" for name, share in zip(names, compared.shares)]
    below = ["", *shares, names[1], names[0]]
    within = ["", "", *("no evidence" * empty for empty in compared.empty)]
    cells = [
        sheet.Cell(pixels, below=text, within=empty)
        for pixels, text, empty in zip(pictures, below, within, strict=True)
    ]
    return sheet.draw([caption], list(_HEADINGS), [cells], 5 * sheet.WIDEST, "turbo")
