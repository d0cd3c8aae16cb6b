"""What an exported file says of itself: its metadata, as one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from ..core.config import Config
from ..core.maps import Inside
from ..hooks.layouts import Layout
from ..hooks.target_layer import TargetLayer

#: Of the keys of a file's metadata.
PREFIX = "cfcam."
#: The version of what this module writes; a file of a later one is refused. Files of the first say nothing of
#: LibraGrad, and their gradients are the model's own.
FORMAT = 2

Runtime: TypeAlias = Literal["onnxruntime", "tensorrt", "aoti"]
#: What names the class: the graph, by the largest logit, or its input `target`.
TargetFrom: TypeAlias = Literal["predicted", "input"]


@dataclass(frozen=True)
class Check:
    """How a file's maps differ from the library's on the images of its self-check.

    Parameters
    ----------
    checked : bool
        False where the runtime is not installed; then there are no figures.
    images : int
    median, worst : float
        Over the images, of the largest difference over the map's maximum.
    correlation : float
        The lowest of the images, of Pearson.
    logits : float
        The largest difference of a logit, over the image's largest.
    ties : int
        How many images differ more than a file's maps may because two channels are so near a tie of the clustering that
        rounding decides it: the library's own maps of them move as far under a change of the images by rounding.
    empty : int
        How many images have no evidence for their class, and a map of zeros, which a check tells little by.
    against : str
        What was compared.
    """

    checked: bool
    images: int = 0
    median: float = 0.0
    worst: float = 0.0
    correlation: float = 1.0
    logits: float = 0.0
    ties: int = 0
    empty: int = 0
    against: str = ""

    def __str__(self) -> str:
        if not self.checked:
            return "not checked: the runtime is not installed here"
        return (
            f"{self.images} images against {self.against}: median {self.median:.1e}, worst {self.worst:.1e} of the "
            f"map's maximum, correlation at least {self.correlation:.7f}"
            + (f"; {self.ties} near a tie, where the library's own map moves as far by rounding" if self.ties else "")
            + (f"; {self.empty} with empty maps, which tell little" if self.empty else "")
        )


@dataclass(frozen=True)
class DescribedLayer:
    """A target layer of an exported model: its name, why this one, its layout, and its activation's (C, h, w)."""

    name: str
    reason: str
    layout: Layout
    shape: tuple[int, ...]

    def target_layer(self) -> TargetLayer:
        """The same without a module, as explanations have it."""
        return TargetLayer(None, self.name, reason=self.reason, layout=self.layout, checked=True)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an exported file holds and how it was made.

    Parameters
    ----------
    library, torch : str
        The versions that exported it.
    runtime : {"onnxruntime", "tensorrt", "aoti"}
        What it is for.
    opset : int or None
        Of ONNX; None of AOTInductor's package.
    model : str or None
        What the model was asked for by, where it has a name.
    trained : bool
        False where its weights are known to be random.
    method : str
        ``"cfcam"``.
    config : Config
    libragrad : bool
        Whether gradients are those of LibraGrad.
    layers : tuple of DescribedLayer
        The finest first.
    images : tuple of int
        (C, H, W) of an image, all axes behind the batch's.
    size : tuple of int
        (H, W) of a map.
    inside : tuple of (float, float) or None
        As of :class:`cfcam_gpu.Explanation`.
    batch : int or None
        How many images a call takes; None is any number.
    target : {"predicted", "input"}
        Where the class comes from; in an input, a negative class is the predicted one.
    classes : int or None
        T, with a T axis in the input `target` and in the maps; None where there is no such axis.
    logits : tuple of int
        (K,) of an image's logits, or (K, h, w).
    segment : int or None
        Of a segmentation: the class whose mean logit over where it is predicted is explained.
    class_names : tuple of str or None
    preparation : mapping or None
        How a photograph becomes an image: ``size``, ``resize``, ``interpolation``, ``mean``, ``std``.
    weights_sha256, graph_sha256 : str
        Of the model's state dict, and of the graph.
    check : Check
    format : int
        The version of this metadata.
    """

    library: str
    torch: str
    runtime: Runtime
    opset: int | None
    model: str | None
    trained: bool
    method: str
    config: Config
    libragrad: bool = False
    layers: tuple[DescribedLayer, ...]
    images: tuple[int, ...]
    size: tuple[int, ...]
    inside: Inside | None
    batch: int | None
    target: TargetFrom
    classes: int | None
    logits: tuple[int, ...]
    segment: int | None
    class_names: tuple[str, ...] | None
    preparation: Mapping[str, Any] | None
    weights_sha256: str
    graph_sha256: str
    check: Check
    format: int = FORMAT

    def metadata(self) -> dict[str, str]:
        """Keys with :data:`PREFIX` and JSON, as files carry it."""
        return {PREFIX + key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def read(cls, metadata: Mapping[str, str], where: str) -> Description:
        """From a file's metadata; other keys are passed over.

        Parameters
        ----------
        metadata : mapping of str to str
        where : str
            The file, for errors.

        Raises
        ------
        ValueError
            If the file was not exported by this library, or by a later format of it.
        """
        if PREFIX + "format" not in metadata:
            raise ValueError(
                f"{where}: expected a file that cfcam-gpu export wrote; it has no metadata cfcam.format, so it "
                "holds no explanation: export the model itself by cfcam_gpu.deploy.export"
            )
        try:
            version = json.loads(metadata[PREFIX + "format"])
            if isinstance(version, int) and version > FORMAT:
                raise NewerError(
                    f"{where}: format {version} is newer than this library knows ({FORMAT}); it was exported by "
                    f"cfcam-gpu {metadata.get(PREFIX + 'library')}: install that or a later one"
                )
            known = {PREFIX + "libragrad": "false", **metadata} if version == 1 else metadata
            values = {field.name: json.loads(known[PREFIX + field.name]) for field in fields(cls)}
            found = cls(**{name: _back(name, value) for name, value in values.items()})
            found._check()
        except NewerError:
            raise
        # What json makes of it may be of any kind, and nested deeper than Python goes.
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{where}: its metadata is damaged ({type(error).__name__}: {error})") from error
        return found

    def _check(self) -> None:
        """Refuse what no export writes.

        Raises
        ------
        ValueError
            The message names the field.
        """
        sound = {
            "format": type(self.format) is int and 1 <= self.format <= FORMAT,
            "images": _are_lengths(self.images) and len(self.images) in (2, 3, 4, 5),
            "size": _are_lengths(self.size) and len(self.size) in (1, 2, 3),
            "batch": self.batch is None or _are_lengths((self.batch,)),
            "classes": self.classes is None or _are_lengths((self.classes,)),
            "logits": _are_lengths(self.logits) and len(self.logits) > 0,
            "target": self.target in get_args(TargetFrom),
            "runtime": self.runtime in get_args(Runtime),
            "layers": len(self.layers) in (1, 2),
            "inside": self.inside is None or len(self.inside) == len(self.size),
            "trained": isinstance(self.trained, bool),
            "libragrad": isinstance(self.libragrad, bool),
            "preparation": self.preparation is None or isinstance(self.preparation, Mapping),
        }
        names = self.class_names
        if names is not None:
            whole = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
            sound["class_names"] = whole and sound["logits"] and len(names) == self.logits[0]
        for name, good in sound.items():
            if not good:
                raise ValueError(f"{PREFIX}{name} is {getattr(self, name)!r}")


class NewerError(ValueError):
    """A file of a later format."""


def _are_lengths(values: object) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value > 0 for value in values)


def _back(name: str, value: Any) -> Any:
    """A field from what JSON made of it."""
    if name == "config":
        return Config(**value)
    if name == "check":
        return Check(**value)
    if name == "layers":
        return tuple(
            DescribedLayer(each["name"], each["reason"], Layout(**_tuples(each["layout"])), tuple(each["shape"]))
            for each in value
        )
    return _nested(value)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _nested(value) for key, value in values.items()}


def _nested(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(_nested(item) for item in value) if isinstance(value, list) else value
