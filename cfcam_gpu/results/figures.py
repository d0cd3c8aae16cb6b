"""Explanations as figures for papers: rows of maps, several methods side by side, groups of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from matplotlib.figure import Figure

from ..core.similarity import TOLERANCE, is_same
from ..methods import METHODS
from . import colours, overlays, panels
from .components import REST, Component
from .panels import Row
from .record import Record, with_axes
from .sheet import Cell, draw

#: Rows that a figure has room for.
MOST = 60
_EMPTY = "no evidence"

Results: TypeAlias = "Mapping[str, Record] | Sequence[Record]"


def figure(
    explanation: Record,
    images: torch.Tensor | None = None,
    *,
    components: Sequence[Sequence[Component]] | None = None,
    width: float = 6.9,
    alpha: float = 0.6,
    colormap: str = "turbo",
) -> Figure:
    """A row for each map of an explanation. See :meth:`cfcam_gpu.Explanation.figure`."""
    groups = _groups(explanation, components)
    _check_options(width, alpha, colormap)
    rows = _rows({"": explanation}, images, alpha, colormap)[""]
    first = rows[0].panels[0]
    headings = ["image"] * (first.photograph is not None)
    if first.photograph is None or groups is None:
        headings += ["map"]
    if first.photograph is not None:
        headings += ["overlay"]
    cells = []
    for i, row in enumerate(rows):
        panel = row.panels[0]
        line = []
        if panel.photograph is not None:
            line.append(Cell(panel.photograph, below=panel.note))
            if groups is None:
                line.append(_map(row))
            line.append(_over(row))
        elif panel.lines is not None:
            line.append(_over(row))
        else:
            line.append(_map(row, below=panel.note))
        if groups is not None:
            of_row = groups[i]
            total = sum(group.share for group in of_row)
            told = f"{total:.0%} in {len(of_row)} group{'s' * (len(of_row) != 1)}"
            line = [
                *line[:-1],
                line[-1]._replace(below=told),
                *(_of_group(one, row, alpha, colormap) for one in of_row),
            ]
        cells.append(line)
    if groups is not None:
        headings += [f"group {k + 1}" for k in range(max(map(len, groups)))]
    labels = [row.name if row.probability is None else f"{row.name}, {row.probability:.1%}" for row in rows]
    return draw(labels, headings, cells, width, colormap)


def compare(
    results: Results,
    images: torch.Tensor | None = None,
    *,
    width: float = 6.9,
    alpha: float = 0.6,
    colormap: str = "turbo",
) -> Figure:
    """A figure for a paper of several methods, layers or models: a row for each map, a column for each of `results`.

    It is a figure as :meth:`cfcam_gpu.Explanation.figure` makes it. Of volumes, the slice through the peak of the first
    column's map is shown in all columns.

    Parameters
    ----------
    results : mapping of str to Explanation, or sequence of Explanation
        Of the same images and targets. Of a sequence, columns are called by their methods.
    images : (B, C, H, W) tensor, optional
        As for :meth:`cfcam_gpu.Explanation.figure`.
    width, alpha, colormap
        As for :meth:`cfcam_gpu.Explanation.figure`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If `results` differ in their number of images, size or targets, or in what one model says of the images; if two
        have the same name; or as for :meth:`cfcam_gpu.Explanation.figure`.

    Examples
    --------
    >>> methods = ("cfcam", "gradcam", "layercam")
    >>> results = [cfcam_gpu.CAM(model, method=method)(images) for method in methods]  # doctest: +SKIP
    >>> cfcam_gpu.compare(results, images).savefig("methods.pdf")  # doctest: +SKIP
    """
    named = _named(results)
    _check_options(width, alpha, colormap)
    _check_alike(named)
    by_name = _rows(named, images, alpha, colormap)
    first = next(iter(by_name.values()))
    has_photograph = first[0].panels[0].photograph is not None
    cells = []
    for i, row in enumerate(first):
        photograph = row.panels[0].photograph
        line = [] if photograph is None else [Cell(photograph, below=row.panels[0].note)]
        cells.append(line + [_over(rows[i]) for rows in by_name.values()])
    headings = ["image"] * has_photograph + list(by_name)
    return draw([row.name for row in first], headings, cells, width, colormap)


def _named(results: Results) -> dict[str, Record]:
    """The columns by their names."""
    if isinstance(results, Record) or not isinstance(results, (Mapping, Sequence)) or not results:
        got = "none" if isinstance(results, (Mapping, Sequence)) and not results else type(results).__name__
        raise TypeError(f"results: expected explanations in a dict by their names, or in a list; got {got}")
    if isinstance(results, Mapping):
        named = {str(name): result for name, result in results.items()}
        if len(named) < len(results):
            raise ValueError(f"results: two of {', '.join(map(repr, results))} are the same as text")
    else:
        for result in results:
            _check_kind(result)
        titles = [METHODS[one.method].title if one.method in METHODS else one.method for one in results]
        if len(set(titles)) < len(titles):
            raise ValueError(
                f"results: two of {', '.join(titles)} have the same name; give a dict, such as "
                "{'layer3': result, 'layer4': other}"
            )
        named = dict(zip(titles, results))
    for result in named.values():
        _check_kind(result)
    return named


def _check_kind(result: object) -> None:
    if not isinstance(result, Record):
        raise TypeError(f"results: expected explanations; got {type(result).__name__}")


def _check_alike(named: Mapping[str, Record]) -> None:
    """Refuse explanations of other images or targets than the first one's, as far as they tell."""
    (name, first), *others = named.items()
    for other, result in others:
        shape, others_shape = (len(first), *first.size), (len(result), *result.size)
        if shape != others_shape:
            raise ValueError(
                f"results: expected one batch of images; {name!r} is of {shape}, {other!r} of {others_shape}"
            )
        if not _same_targets(first, result):
            raise ValueError(f"results: expected the same targets; {name!r} explains {_differ(first, other, result)}")
        same_model = first.origin is not None and result.origin is not None
        same_model = same_model and first.origin.model is result.origin.model  # type: ignore[union-attr]
        if same_model and first.logits is not None and result.logits is not None:
            alike = first.logits.shape == result.logits.shape and first.logits.device == result.logits.device
            if alike and not is_same(first.logits, result.logits):
                raise ValueError(
                    f"results: expected the same images; the model says something else of those of {other!r} than of "
                    f"those of {name!r}"
                )


def _same_targets(first: Record, other: Record) -> bool:
    """Whether two explanations name the same classes, or, as far as is known, the same callables.

    Classes are the same by their names where both models have some, as each may number them otherwise; else by number.
    """
    if first.several != other.several or (first.target is None) != (other.target is None):
        return False
    if first.target is not None and other.target is not None:
        if first.class_names is not None and other.class_names is not None:
            return first.classes == other.classes
        return torch.equal(first.target.cpu(), other.target.cpu())
    known = [one.origin.scores for one in (first, other) if one.origin is not None]
    return first.classes == other.classes and (len(known) < 2 or known[0] == known[1])


def _differ(first: Record, name: str, other: Record) -> str:
    """What two explanations differ in that do not explain the same, and the way out."""
    pairs = list(zip(first.classes, other.classes))
    where = next((b for b, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if where is None:
        return "callables that are not the same. Explain both with the same target=..."
    told = f"{pairs[where][0]!r} of image {where}, {name!r} {pairs[where][1]!r}"
    if first.target is None or other.target is None or not torch.equal(first.target.cpu(), other.target.cpu()):
        return f"{told}. Explain both with the same target=..."
    return f"{told}, of the same number. If these are the same classes, give both models the same class_names=..."


def _rows(
    named: Mapping[str, Record], images: torch.Tensor | None, alpha: float, colormap: str
) -> dict[str, list[Row]]:
    """The rows of each explanation, all with the same photographs and slices."""
    first = next(iter(named.values()))
    count = len(first) * first.per_image
    if not 0 < count <= MOST:
        raise ValueError(
            f"result: a figure has room for 1 to {MOST} maps; got {count}. Give a part, such as result[:8]"
        )
    if images is None:
        # The images themselves, where one of the explanations still knows them.
        images = next((known for one in named.values() if one.seen and (known := one.seen.images()) is not None), None)
    else:
        overlays.check(first.maps, with_axes(first, images), alpha)
    places = None
    found = {}
    for name, result in named.items():
        rows = panels.rows_of(result, images, alpha=alpha, colormap=colormap, places=places)
        found[name], places = rows, [row.place for row in rows]
    return found


def _map(row: Row, below: str = "") -> Cell:
    return Cell(row.panels[0].map, below=below, within=_EMPTY if row.empty else "")


def _over(row: Row) -> Cell:
    panel = row.panels[0]
    return Cell(panel.overlay, panel.lines, within=_EMPTY if row.empty else "")


def _groups(explanation: Record, components: Sequence[Sequence[Component]] | None) -> list[list[Component]] | None:
    """The named groups of each image."""
    if components is None:
        return None
    lists = list(components)
    are_lists = all(isinstance(of_image, (list, tuple)) for of_image in lists) and len(lists) == len(explanation)
    if not are_lists or not all(isinstance(one, Component) for of_image in lists for one in of_image):
        raise ValueError(
            f"components: expected {len(explanation)} lists of components, one for each image, as "
            f"result.components(images) gives them; got {len(lists)} entries"
        )
    if explanation.several or not all(map(_add_up, explanation.raw_maps.cpu(), lists)):
        raise ValueError(
            "components: expected those of this explanation, whose maps they are parts of; got those of other images, "
            "targets or layers, or of another method"
        )
    return [[one for one in of_image if one.name != REST] for of_image in lists]


def _add_up(raw_map: torch.Tensor, groups: Sequence[Component]) -> bool:
    """Whether groups of channels, or some of them, can be parts of a raw map (h, w): nowhere more than it."""
    parts = [one.raw_map.cpu() for one in groups]
    if not all(part.shape == raw_map.shape for part in parts):
        return False
    return not parts or bool((torch.stack(parts).sum(dim=0) <= raw_map + TOLERANCE * raw_map.max()).all())


def _of_group(group: Component, row: Row, alpha: float, colormap: str) -> Cell:
    share = f"{group.share:.0%}"
    if group.probability_without is not None:
        share += f"; {group.probability_without:.1%} without"
    (panel, *_) = panels.drawn(group.map.cpu(), group.image.cpu(), row.place, alpha=alpha, colormap=colormap)
    return Cell(panel.overlay, panel.lines, below=share)


def _check_options(width: float, alpha: float, colormap: str) -> None:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 2 <= width <= 100:
        raise ValueError(f"width: expected a number of inches in [2, 100]; got {width!r}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: expected a number in [0, 1]; got {alpha!r}")
    colours.check(colormap)
