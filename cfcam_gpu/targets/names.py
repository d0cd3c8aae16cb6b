"""Names of classes: which class a name means, and the names that a model has of its own."""

from __future__ import annotations

import copy
import difflib
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import nn

_log = logging.getLogger(__name__)

#: Names that stand for a number and nothing else: the defaults of transformers, ultralytics and of this package.
_NUMBERED = re.compile(r"(?:label|class)?[ _]?(\d+)", re.IGNORECASE)
#: So many names are told where none of them is near.
_FEW = 12


class ClassNames:
    """The names of a model's classes.

    Parameters
    ----------
    given : sequence of str or None
        By the caller. None takes the model's own, see :func:`names_of`.
    model : torch.nn.Module or None
        None has no names of its own.

    Attributes
    ----------
    given : bool
        Whether they are the caller's. Where their number is not the model's, those are refused, and its own not used.

    Raises
    ------
    TypeError, ValueError
        If those given are no sequence of text, or empty.
    """

    def __init__(self, given: Sequence[str] | None, model: nn.Module | None) -> None:
        self.given = given is not None
        self._fixed = None if given is None else _checked(given)
        self._model = model if given is None else None
        self._told = False

    @property
    def names(self) -> tuple[str, ...] | None:
        """By index; None where there are none. A model's own are those that it has now."""
        return self._fixed if self._model is None else names_of(self._model)

    def fixed(self) -> ClassNames:
        """The names as they are now, whatever becomes of the model."""
        result = copy.copy(self)
        result._fixed, result._model = self.names, None
        return result

    def fitting(self, logits: torch.Tensor | None) -> tuple[str, ...] | None:
        """The names, where they are of the logits of a model; if not, the log says so once.

        Parameters
        ----------
        logits : (B, K) tensor or None
            Of others than (B, K) it is not known which axis are the classes.
        """
        names = self.names
        if names is None or logits is None or logits.ndim != 2 or logits.shape[1] == len(names):
            return names
        if not self._told:
            self._told = True
            _log.warning(
                "the model's own names are of %d classes, and it has %d logits: they are not used; class_names= gives "
                "others",
                len(names),
                logits.shape[1],
            )
        return None


def with_indices(target: Any, names: Sequence[str] | None) -> Any:
    """A target with the class's index in the place of each name: alone, in a list, or in rows in a list or an array.

    Anything else in it stays as it is.

    Raises
    ------
    ValueError
        If no names are known, or no class or several are called so.
    """
    known: dict[str, int] = {}

    def replaced(item: Any) -> Any:
        if isinstance(item, str):
            if names is None:
                raise ValueError(
                    f"target: expected a class index, as the model has no names of its classes; got {item!r}. Give "
                    "them: class_names=[...] to what explains it, or as model.class_names"
                )
            if item not in known:
                known[item] = class_index(item, names)
            return known[item]
        return [replaced(each) for each in item] if _has_names(item) else item

    # An array or a column of a table; of numbers they are as good as tensors.
    of_text = getattr(getattr(target, "dtype", None), "kind", None) in ("U", "T", "O")
    return replaced(target.tolist() if of_text else target)


def _has_names(target: Any) -> bool:
    if not isinstance(target, (list, tuple)):
        return False
    return any(isinstance(item, str) or _has_names(item) for item in target)


def class_index(target: str, names: Sequence[str]) -> int:
    """The index of the class that `target` means: its index, or its name; in any case where that fits one class alone.

    Raises
    ------
    ValueError
        If there is no such class, and the message has the nearest names; or if there are several.
    """
    try:
        index = int(target)
    except ValueError:
        called = classes_called(target, names)
        if len(called) > 1:
            raise ValueError(f"target: {target!r} may be {either(called, names)}; give its index") from None
        if called:
            return called[0]
        raise ValueError(f"target: no class is called {target!r}{_nearest(target, names)}") from None
    called = [k for k, name in enumerate(names) if name == target and k != index]
    if called and (len(called) > 1 or 0 <= index < len(names)):
        may_be = [k for k in (index, *called) if 0 <= k < len(names)]
        raise ValueError(
            f"target: {target!r} may be {either(may_be, names)}; give the index as an int, or as text with a zero "
            f"before it, '0{may_be[0]}'"
        )
    if called:
        return called[0]
    return class_at(index, names)


def class_at(index: int, names: Sequence[str]) -> int:
    """The index itself, of a class that there is.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not 0 <= index < len(names):
        raise ValueError(f"target: class {index} is out of range for {len(names)} classes (0 to {len(names) - 1})")
    return index


def classes_called(name: str, names: Sequence[str], plain: Callable[[str], str] = str.casefold) -> list[int]:
    """The indices of the classes that are called `name`; of those that are so exactly, if any.

    Parameters
    ----------
    name : str
    names : sequence of str
        Of all classes, by index.
    plain : callable
        Takes from a name what is not looked at.
    """
    exact = [index for index, one in enumerate(names) if one == name]
    return exact or [index for index, one in enumerate(names) if plain(one) == plain(name)]


def either(classes: Sequence[int], names: Sequence[str]) -> str:
    """Classes as a sentence has them where any of them may be meant."""
    return " or ".join(f"class {index} ({names[index]!r})" for index in classes)


def names_of(model: nn.Module) -> tuple[str, ...] | None:
    """The names that a model has of its classes, by index; None where it has none.

    They are, of the first of these that there is:

    - ``model.class_names``, ``model.classes`` or ``model.names``: a list or tuple of text, or a dict from index to
      text, as ultralytics has it;
    - ``model.config.id2label`` of transformers; an index that it leaves out is ``"class 5"``;
    - ``model.pretrained_cfg["label_names"]`` of timm, or WordNet's names of the 1000 classes of ImageNet (ILSVRC 2012),
      where the tag of that configuration says that its weights are of ImageNet-1k and the model still has 1000 classes.

    Names that only number the classes, such as ``LABEL_0``, are none. Without names of its own, a module that holds one
    other module and no parameters, as ``DataParallel``, ``torch.compile`` and most wrappers do, has those of that one.
    torchvision's modules do not know which weights they were filled with: ``weights.meta["categories"]`` has the names.

    Parameters
    ----------
    model : torch.nn.Module
        It does not run. How many logits it has is not known here: whoever takes the names compares.
    """
    inner: nn.Module | None = model
    while isinstance(inner, nn.Module):
        for names in (*map(_listed, _own(inner)), _of_timm(inner)):
            if names is not None:
                return names
        inner = _wrapped(inner)
    return None


def imagenet() -> tuple[str, ...]:
    """WordNet's names of the 1000 classes of ImageNet (ILSVRC 2012), each different from all others in any case."""
    return _imagenet()


def _checked(class_names: Sequence[str]) -> tuple[str, ...]:
    """Names that a caller gave.

    Raises
    ------
    TypeError, ValueError
        If they are no sequence of text, or empty.
    """
    listed = hasattr(class_names, "__getitem__") and not isinstance(class_names, (str, bytes, Mapping))
    if not listed or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"class_names: expected a sequence of str, one for each class; got {class_names!r:.80}")
    if len(class_names) == 0:
        raise ValueError("class_names: expected a name for each class; got none")
    return tuple(map(str, class_names))


def text_of(score: Any, names: Sequence[str] | None = None) -> str:
    """What a callable that is explained is called: a function by its name, a ready target with what it was given.

    A ready target's ``of_classes`` are those of its fields that are classes, which have their names here where these
    are known. No value of a tensor is read.
    """
    if isinstance(score, functools.partial):
        return text_of(score.func, names)
    if not is_dataclass(score) or isinstance(score, type):
        return str(getattr(score, "__name__", type(score).__name__))
    given = [(field, getattr(score, field.name)) for field in fields(score) if field.repr]
    # Of what is as by default nothing is said.
    given = [(field, value) for field, value in given if not _is_same(value, field.default)]
    classes = getattr(score, "of_classes", ())
    said = [
        f"{field.name}={_of_classes(value, names) if field.name in classes else _short(value, names)}"
        for field, value in given
    ]
    return f"{type(score).__name__}({', '.join(said)})"


def _of_classes(value: Any, names: Sequence[str] | None) -> str:
    """One class or several."""
    classes = [value] if isinstance(value, int) else list(value)
    return ", ".join(names[index] if names is not None and index < len(names) else str(index) for index in classes)


def _short(value: Any, names: Sequence[str] | None) -> str:
    if hasattr(value, "shape"):
        return f"shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)) and any(hasattr(item, "shape") for item in value):
        return f"{len(value)} tensors"
    return text_of(value, names) if callable(value) else f"{value!r:.60}"


def _is_same(value: Any, default: Any) -> bool:
    return not hasattr(value, "shape") and type(value) is type(default) and bool(value == default)


def _nearest(target: str, names: Sequence[str]) -> str:
    folded = [name.casefold() for name in names]
    # What a person means by "crane" may be one word of the name.
    words = [name for name in folded if target.casefold() in re.findall(r"\w+", name)][:6]
    near = words or difflib.get_close_matches(target.casefold(), folded, n=3, cutoff=0.5)
    if near:
        return "; nearest: " + ", ".join(names[folded.index(name)] for name in near)
    return f"; expected one of {', '.join(names)}, or an index" if len(names) <= _FEW else ""


def _own(model: nn.Module) -> list[Any]:
    """What of a model may be names."""
    config = _attribute(model, "config")
    return [
        *(_attribute(model, key) for key in ("class_names", "classes", "names")),
        config.get("id2label") if isinstance(config, Mapping) else _attribute(config, "id2label"),
    ]


def _attribute(of: Any, key: str) -> Any:
    try:
        return getattr(of, key, None)
    except Exception:  # a property of the user's, which nobody asked to be read
        return None


def _listed(found: Any) -> tuple[str, ...] | None:
    """Names from what a model has under such a name, or None where it is something else."""
    if not isinstance(found, (Mapping, list, tuple)) or not found:
        return None
    try:
        if isinstance(found, Mapping):
            return _by_index(tuple(found.values()), tuple(found))
        return _by_index(tuple(found))
    except TypeError:  # what can't be hashed is no name
        return None


@functools.lru_cache(maxsize=64)  # they are read at every call, and hardly ever others
def _by_index(found: tuple[Any, ...], keys: tuple[Any, ...] | None = None) -> tuple[str, ...] | None:
    """Names that are such, in the order of their keys."""
    if not all(isinstance(name, str) for name in found):
        return None
    if keys is not None:
        try:
            by_index = {int(key): name for key, name in zip(keys, found)}
        except (TypeError, ValueError):
            return None
        # One that is far off is no index; as a list it would fill the memory.
        if min(by_index) < 0 or len(by_index) < len(found) or max(by_index) > 100 * len(by_index):
            return None
        found = tuple(by_index.get(index, f"class {index}") for index in range(max(by_index) + 1))
    numbers = (_NUMBERED.fullmatch(name) for name in found)
    if all(number is not None and int(number[1]) == index for index, number in enumerate(numbers)):
        return None
    return found


def _of_timm(model: nn.Module) -> tuple[str, ...] | None:
    of_weights = _attribute(model, "pretrained_cfg")
    if not isinstance(of_weights, Mapping):
        return None
    names = _listed(of_weights.get("label_names"))
    if names is not None:
        return names
    # Beside "in1k", which is also in "in21k_ft_in1k", tags are of other data, or "untrained". The number is of the
    # weights; after `reset_classifier`, or with `num_classes=`, the model has another.
    of_imagenet = "in1k" in str(of_weights.get("tag")) and of_weights.get("num_classes") == 1000
    return imagenet() if of_imagenet and _attribute(model, "num_classes") == 1000 else None


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The one module in a module that has nothing else."""
    children = list(model.children())
    alone = len(children) == 1 and next(model.parameters(recurse=False), None) is None
    return children[0] if alone else None


@functools.cache
def _imagenet() -> tuple[str, ...]:
    return tuple(files(__package__).joinpath("data/imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
