"""Functions of the user's that build a model, and the packages that models come from."""

from __future__ import annotations

import difflib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType

import torch
from torch import nn


def from_factory(where: str, name: str) -> nn.Module:
    """What the function `name` of the module `where` returns; the current folder is searched last for the module.

    Raises
    ------
    ImportError, RuntimeError, TypeError, ValueError
        If there is no such function, it raises anything, or gives no torch module; the message says what and where.
    """
    return with_description(where, name)[0]


def with_description(where: str, name: str) -> tuple[nn.Module, object]:
    """The same, and what it says of the module's images: the second of a pair that it returns, else None.

    Raises
    ------
    ImportError, RuntimeError, TypeError, ValueError
        As :func:`from_factory`.
    """
    with _current_folder_searched_last():
        try:
            home = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"model: {where}:{name} needs the module {error.name}, which is not there"
            ) from error
        except (Exception, SystemExit) as error:  # a script that was not made to be imported may end itself
            raise RuntimeError(f"model: the import of {where} raised {_described(error)}") from error
        factory: Callable[[], object] | None = getattr(home, name, None)
        if not callable(factory):
            offered = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
            raise ValueError(f"model: {where} has no function {name!r}{near(name, offered)}")
        try:
            found = factory()
        except (Exception, SystemExit) as error:
            raise RuntimeError(f"model: {where}:{name}() raised {_described(error)}") from error
    module, said = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"model: expected {where}:{name}() to return a torch.nn.Module, or a pair of one and what describes its "
            f"images; got {type(found).__name__}"
        )
    return module, said


@contextmanager
def _current_folder_searched_last() -> Iterator[None]:
    """Last, so that nothing in the current folder stands in for an installed package."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        # The last one, since the folder may have had a place of its own before.
        last = max((place for place, folder in enumerate(sys.path) if folder == here), default=None)
        if last is not None:
            del sys.path[last]


def _described(error: BaseException) -> str:
    """An error of the user's code, with the last line of theirs on the way to it."""
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    ours = __name__.partition(".")[0]
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in (ours, "importlib")
    ]
    lines = [line for line in lines if not line[0].startswith(libraries)] or lines
    place = f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""  # a syntax error has its own in its message
    return f"{type(error).__name__}: {error}{place}"


def package(name: str, distribution: str, install: str = "") -> ModuleType:
    """An installed package that models come from.

    Raises
    ------
    ImportError
        If it is not installed, or can't be imported; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ModuleNotFoundError(
                f"model: {distribution} needs the module {error.name}, which is not there", name=error.name
            ) from error
        raise ModuleNotFoundError(
            f"model: the package {distribution} is not installed; pip install {install or distribution}", name=name
        ) from None
    except Exception as error:  # compiled libraries raise all kinds where they do not fit
        if "torchvision::" in str(error):  # its operators, which its compiled part declares
            raise ImportError(
                f"model: {name} needs torchvision, and the installed one, {metadata.version('torchvision')}, was not "
                f"built for the installed torch, {torch.__version__} ({error}); install both from one index: "
                f"pip install --force-reinstall torch torchvision --index-url {_index()}"
            ) from error
        raise ImportError(f"model: the package {distribution} can't be imported: {_described(error)}") from error


def _index() -> str:
    """Where torch's builds for what this one is built for are."""
    cuda = torch.version.cuda
    return f"https://download.pytorch.org/whl/{'cpu' if cuda is None else 'cu' + cuda.replace('.', '')}"


def near(name: str, known: Sequence[str]) -> str:
    """The end of a message on a name that is unknown: the nearest of those that are known, if any is near."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; nearest: {', '.join(close)}" if close else ""
