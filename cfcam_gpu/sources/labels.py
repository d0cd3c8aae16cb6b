"""The class that a source names for an image, as a class index."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

from ..targets.names import class_at, class_index

#: What tables and ``.cls`` files write where an image has no class; -1 is that of test sets.
UNLABELLED = frozenset({"nan", "none", "null", "na", "n/a", "-1"})


def target_of(value: object, names: Sequence[str] | None) -> int | None:
    """The class index that a target means, or None where there is none: the predicted class is meant.

    Parameters
    ----------
    value : int, float, str or None
        An index, also as a float or in text (``3``, ``3.0``, ``"3.0"``), or a class's name. None, NaN, -1, empty text
        and, unless a class is called so, the words in :data:`UNLABELLED` in any case mean no class.
    names : sequence of K str or None
        Of the classes; None takes indices only.

    Raises
    ------
    ValueError
        If it is no class.
    """
    if isinstance(value, bool):
        raise ValueError(f"target: expected a class index or name; got {value}")
    text = "" if value is None else str(value).strip()
    if not text or (text.casefold() in UNLABELLED and not _is_name(text, names)):
        return None
    number = float(value) if isinstance(value, numbers.Real) else _number(text)
    if number is None:
        if names is None:
            raise ValueError(f"target: expected a class index, as no class names are given; got {text!r}")
        return class_index(text, names)
    if not math.isfinite(number) or number != int(number):
        raise ValueError(f"target: expected a class index or name; got {text}, which is no integer")
    if number == -1:
        return None
    if names is not None:
        # A number may be a class's name as text alone.
        return class_index(text, names) if text.isdecimal() and isinstance(value, str) else class_at(int(number), names)
    if number < 0:
        raise ValueError(f"target: expected a class index; got {text}")
    return int(number)


class Targets:
    """The targets of a source, as class indices.

    Parameters
    ----------
    names : sequence of K str or None
        Of the model's classes.
    read : bool
        False: the source's targets are not looked at, and are None.

    Attributes
    ----------
    unlabelled : int
        How many images so far have something that says that they have no class.
    """

    def __init__(self, names: Sequence[str] | None, *, read: bool = True) -> None:
        self.names = names
        self.read = read
        self.unlabelled = 0
        self._classes: Sequence[str] | None = None
        self._by_name = False
        self._known: dict[object, int | None] = {}

    def of(self, value: object, where: str, classes: Sequence[str] | None = None) -> int | None:
        """The class index that one image's target means, or None; see :func:`target_of`.

        Parameters
        ----------
        value : object
        where : str
            For the error.
        classes : sequence of str, optional
            The data set's own names of its classes, of which `value` is an index. They say what it means. Where there
            are as many as the model has, their order is the model's if all that both have are at the same places:
            others are the same classes by other names.

        Raises
        ------
        ValueError
            If it is no class.
        """
        if not self.read:
            return None
        if isinstance(value, (list, dict)):
            raise ValueError(f"source: {where}: target: expected a class index or name; got {str(value)[:40]}")
        if classes is not self._classes:  # another file
            self._classes, self._known = classes, {}
            self._by_name = classes is not None and self.names is not None and not _in_one_order(classes, self.names)
        key = (type(value), value)
        if value == value and key not in self._known:  # NaN is not itself
            try:
                self._known[key] = self._of(value, classes)
            except ValueError as error:
                raise ValueError(f"source: {where}: {error}") from None
        index = self._known.get(key)
        self.unlabelled += index is None and value is not None and str(value).strip() != ""
        return index

    def _of(self, value: object, classes: Sequence[str] | None) -> int | None:
        if classes is None or self.names is None or not self._by_name:
            return target_of(value, self.names)
        index = target_of(value, classes)
        return None if index is None else _called(classes[index], self.names)


def _in_one_order(classes: Sequence[str], names: Sequence[str]) -> bool:
    """Whether two lists are of the same classes in the same order, as far as what both have shows it."""
    exact, folded = set(names), {name.casefold() for name in names}
    return len(classes) == len(names) and all(
        theirs == own
        or (theirs not in exact and (theirs.casefold() == own.casefold() or theirs.casefold() not in folded))
        for theirs, own in zip(classes, names)
    )


def _called(name: str, names: Sequence[str]) -> int:
    """The class of a data set's name, which is no index where it is a number."""
    if _number(name) is None:
        return class_index(name, names)
    if name not in names:
        raise ValueError(f"target: no class is called {name!r}")
    return names.index(name)


def _is_name(text: str, names: Sequence[str] | None) -> bool:
    return names is not None and text.casefold() in {name.casefold() for name in names}


def _number(text: str) -> float | None:
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return None
