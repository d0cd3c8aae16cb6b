"""What commands ask of a model, by options of one name, type and help each; importable without torch.

Commands declare their parameters by these types. What is one command's alone, or has another text there, stands there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

#: Suffixes of exported files, which may stand in a model's place.
EXPORTED = (".onnx", ".pt2")


class Preset(StrEnum):
    """Which Config."""

    default = "default"
    broad = "broad"
    tight = "tight"
    paper = "paper"


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


#: The model where the help of ``cfcam-gpu explain``, which says what it may be, can be pointed to.
ModelAsExplained: TypeAlias = Annotated[str, typer.Option(help="As for cfcam-gpu explain.")]
WeightsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A state dict for the model: .safetensors, or a .pth of tensors only."),
]
#: The same beside :data:`ModelAsExplained`.
WeightsAsExplained: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="A state dict for the model.")]
#: Where the help of ``cfcam-gpu explain`` says the rest.
LayerAsExplained: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Target layer; twice, the finer one first: two levels.",
        show_default="chosen, and told",
    ),
]
RayOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Explain on Ray: on every GPU, or CPU, of the cluster at --ray-address, or of this machine. All machines "
        "of it are alike, and see what is explained and the weights by the same names.",
    ),
]
RayAddressOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a Ray cluster, host:port.", show_default="RAY_ADDRESS, or a new one"),
]
EngineOption: TypeAlias = Annotated[str, typer.Option(help="auto, or one that cfcam-gpu info lists.")]
PresetOption: TypeAlias = Annotated[
    Preset,
    typer.Option(
        help="broad shows more of the image strongly, and tight less, of two levels and of layers that are chosen; "
        "paper is the form of the authors' code."
    ),
]
DeviceOption: TypeAlias = Annotated[Device, typer.Option(help="auto is the GPU where there is one.")]
MethodOption: TypeAlias = Annotated[str, typer.Option(help="One that cfcam-gpu methods lists.")]
AugmentOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Look at each image transformed, too, and average: flip, flip-vertical, rotate90, rotate180 or rotate270. "
        "May be given several times.",
        show_default="none",
    ),
]
SmoothOption: TypeAlias = Annotated[
    int, typer.Option(min=0, metavar="N", help="Average over N noisy copies of each image, the same in every run.")
]
LibragradOption: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--libragrad/--no-libragrad",
        help="Gradients that are complete on transformers: normalisations, gates and attention's weights count as "
        "constants.",
        show_default="where cfcam's layers are tokens of one grid",
    ),
]
WindowOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="CENTER,WIDTH",
        help="Of DICOM and of volumes: the values that become black and white, in the units of the file (Hounsfield "
        "units of a CT).",
        show_default="the file's own window, else its percentiles",
    ),
]
SpatialDimsOption: TypeAlias = Annotated[
    int, typer.Option(min=2, max=3, help="3 for volumes: NIfTI, and series or multi-frame files of DICOM.")
]
ClassesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The names of the model's classes: a name a line; .json with a list, or names and indices; .yaml of "
        "YOLO's data; or a folder whose sub-folders are the classes. torchvision:NAME and timm:NAME are "
        "built with so many.",
        show_default="the model's own",
    ),
]
SizeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="N or [D,]H,W",
        help="Of the images that the model takes, in pixels; D,H,W of volumes, in voxels.",
        show_default="the model's own",
    ),
]
ChannelsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="C",
        help="Of the images that the model takes: 1 is grey, 3 are colours, others are bands of TIFF and .npy.",
        show_default="the model's own",
    ),
]
MeanOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="M or M,M,...",
        help="Subtracted from each channel, with --std: of values in [0, 1], or, where a number is beyond 1, in the "
        "files' own units.",
        show_default="the model's own",
    ),
]
StdOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="S or S,S,...", help="Each channel is divided by it.", show_default="the model's own"),
]
OverwriteOption: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace what is in DIR already.")]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What names a model and how it is explained; see :func:`cfcam_gpu.named_models.loading.load_explainer`.

    Parameters
    ----------
    model : str
        See :func:`cfcam_gpu.photographs.load`; or an exported file, for which the others but `device` are none's.
    weights : Path or None
    layers : sequence of str
        One, or the finer one and the coarser of CF-CAM, or several to fuse; none chooses.
    engine : str
    preset : {"default", "broad", "tight", "paper"}
        Of the method ``"cfcam"``; broad and tight are those of :meth:`cfcam_gpu.Config.two_level`.
    device : {"auto", "cpu", "cuda"}
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`.
    augment : sequence of str
    smooth : int
        As for :class:`cfcam_gpu.CAM`.
    libragrad : bool or None
        As for :class:`cfcam_gpu.CAM`.
    window : (float, float) or None
        Centre and width of the values that are shown of DICOM and of volumes; None takes the file's own.
    spatial_dims : {2, 3}
    size : tuple of int or None
        H and W of the images that the model takes, or D, H and W of volumes; None is the model's own.
    channels : int or None
        Of these images.
    mean, std : tuple of float or None
        Of each channel, or one for all; both or neither.
    classes : Path or None
        Where the names of its classes are; see :func:`cfcam_gpu.named_models.class_file.read`.
    """

    model: str = "lite0"
    weights: Path | None = None
    layers: tuple[str, ...] = ()
    engine: str = "auto"
    preset: str = "default"
    device: str = "auto"
    method: str = "cfcam"
    augment: tuple[str, ...] = ()
    smooth: int = 0
    libragrad: bool | None = None
    window: tuple[float, float] | None = None
    spatial_dims: int = 2
    size: tuple[int, ...] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: Path | None = None

    @property
    def file(self) -> Path | None:
        """The exported file that stands in the model's place, if one does."""
        return Path(self.model) if self.model.lower().endswith(EXPORTED) else None

    def absolute(self) -> Settings:
        """The same for processes in other folders: files are named from the root."""
        model = self.model if self.file is None else str(self.file.absolute())
        kind, _, folder = self.model.partition(":")
        if kind == "transformers" and folder:
            model = f"{kind}:{Path(folder).absolute()}"
        weights, classes = (path and path.absolute() for path in (self.weights, self.classes))
        return replace(self, model=model, weights=weights, classes=classes)

    @classmethod
    def given(
        cls,
        model: str,
        weights: Path | None,
        layer: Sequence[str] | None,
        engine: str,
        preset: Preset,
        device: Device,
        *,
        method: str = "cfcam",
        augment: Sequence[str] | None = None,
        smooth: int = 0,
        libragrad: bool | None = None,
        window: str | None = None,
        spatial_dims: int = 2,
        size: str | None = None,
        channels: int | None = None,
        mean: str | None = None,
        std: str | None = None,
        classes: Path | None = None,
    ) -> Settings:
        """Those of a command's options.

        Raises
        ------
        ValueError
            If window, size, mean or std are not numbers of that form.
        """
        return cls(
            model=model,
            weights=weights,
            layers=tuple(layer or ()),
            engine=engine,
            preset=preset.value,
            device=device.value,
            method=method,
            augment=tuple(augment or ()),
            smooth=smooth,
            libragrad=libragrad,
            window=None if window is None else window_of(window),
            spatial_dims=spatial_dims,
            classes=classes,
            **input_of(size=size, channels=channels, mean=mean, std=std, spatial_dims=spatial_dims),
        )


def window_of(said: str) -> tuple[float, float]:
    """Centre and width from ``"CENTER,WIDTH"``.

    Raises
    ------
    ValueError
        If it is something else, or they can't be meant.
    """
    try:
        center, width = map(float, said.split(","))
    except ValueError:
        raise ValueError(f"window: expected CENTER,WIDTH, two numbers such as 40,400; got {said!r}") from None
    if not math.isfinite(center) or not 0 < width < math.inf:
        raise ValueError(f"window: expected a finite center and a width above 0; got {said!r}")
    return center, width


def input_of(
    *, size: str | None, channels: int | None, mean: str | None, std: str | None, spatial_dims: int = 2
) -> dict[str, Any]:
    """The fields of :class:`Settings` on a model's input, from what is said.

    Raises
    ------
    ValueError
        If something else is said.
    """
    return {
        "size": None if size is None else size_of(size, spatial_dims),
        "channels": channels,
        "mean": None if mean is None else numbers_of("mean", mean),
        "std": None if std is None else numbers_of("std", std),
    }


def size_of(said: str, spatial_dims: int = 2) -> tuple[int, ...]:
    """Height and width, of volumes after the depth, from ``"N"`` or ``"H,W"``.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        sides = [int(side) for side in said.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, spatial_dims) or min(sides) < 1:
        form, example = ("N or H,W", "224 or 192,256") if spatial_dims == 2 else ("N or D,H,W", "96 or 64,96,96")
        raise ValueError(f"size: expected {form}, whole numbers such as {example}; got {said!r}")
    return tuple(sides if len(sides) > 1 else sides * spatial_dims)


def numbers_of(name: str, said: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises
    ------
    ValueError
        If they are something else, or not finite; of ``"std"`` not above 0.
    """
    try:
        found = tuple(float(each) for each in said.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)) or (name == "std" and min(found) <= 0):
        above = " above 0" if name == "std" else ""
        raise ValueError(
            f"{name}: expected a number{above} or one for each channel, such as 0.5 or 0.49,0.46,0.41; got {said!r}"
        )
    return found
