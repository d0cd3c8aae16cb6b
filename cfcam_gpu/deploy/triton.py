"""An exported file as a model of Triton Inference Server: its folder in a model repository."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..results import durable
from . import players
from .description import PREFIX, Description

CONFIG, LABELS, MODEL = "config.pbtxt", "labels.txt", "model.onnx"
#: The version's folder.
VERSION = "1"
#: Microseconds that the first image of a batch waits for more.
WAIT = 1000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write(
    path: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    max_batch_size: int = 8,
    overwrite: bool = False,
) -> Path:
    """Put an exported file into a model repository of Triton Inference Server, for its backend of ONNX Runtime.

    The model's folder gets ``config.pbtxt``, ``1/model.onnx`` and, where the file has class names, ``labels.txt``. A
    file of any batch is batched dynamically; one of a fixed batch takes whole batches. What is one number of an image,
    as `target` or `empty`, has an axis of length 1 there.

    Parameters
    ----------
    path : path
        FILE.onnx, as :func:`cfcam_gpu.deploy.export` writes it.
    repository : path
        The model repository; made where it is not there yet.
    name : str, optional
        Of the model; the file's, without its suffix, where none is given.
    max_batch_size : int
        Images that Triton explains together at most, of a file of any batch.
    overwrite : bool
        Replace these files of a model that is there; what else is in its folder stays.

    Returns
    -------
    Path
        The model's folder.

    Raises
    ------
    FileExistsError, NotADirectoryError
        If the repository has a model of that name, and `overwrite` is False, or is a file.
    OSError
        If the file is missing, or something can't be written.
    ImportError
        If neither onnx nor onnxruntime is installed.
    TypeError, ValueError
        If an argument can't be what is meant.
    """
    path, repository = Path(path), Path(repository)
    if players.kind(path) != "onnxruntime":
        raise ValueError(f"path: expected a file .onnx, which Triton's backend of ONNX Runtime plays; got {path}")
    _check_batch(max_batch_size)
    name = path.stem if name is None else name
    folder = check_place(repository, name, overwrite=overwrite)
    said = players.described(path)
    data, text = path.read_bytes(), config(said, name, max_batch_size=max_batch_size)
    version = durable.folder(folder / VERSION)
    durable.write(version / MODEL, data, alone=False)
    if _has_labels(said):
        assert said.class_names is not None
        lines = (" ".join(label.split()) or "-" for label in said.class_names)
        durable.write(folder / LABELS, "".join(f"{line}\n" for line in lines).encode(), alone=False)
    # Last: it is what makes a model of the folder.
    durable.write(folder / CONFIG, text.encode(), alone=False)
    return folder


def check_place(repository: Path, name: str, *, overwrite: bool) -> Path:
    """The folder of a model in a repository, where it may be written.

    Raises
    ------
    FileExistsError
        If it is there already, and `overwrite` is False.
    NotADirectoryError
        If the repository is a file.
    ValueError
        If Triton has no models of that name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name: expected letters, digits and _.- alone, as Triton's addresses have it; got {name!r}")
    if repository.exists() and not repository.is_dir():
        raise NotADirectoryError(f"repository: expected a folder, there or new; {repository} is a file")
    folder = repository / name
    if os.path.lexists(folder) and not (overwrite and folder.is_dir()):
        raise FileExistsError(
            f"repository: {folder} is there already; choose another name, or replace it with overwrite (--overwrite)"
        )
    return folder


def config(said: Description, name: str, *, max_batch_size: int = 8) -> str:
    """The text of ``config.pbtxt``.

    Parameters
    ----------
    said : Description
    name : str
        Of the model.
    max_batch_size : int
        Of a file of any batch.
    """
    any_batch = said.batch is None
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size if any_batch else 0}",
        *(line for each in _inputs(said) for line in each),
        *(line for each in _outputs(said) for line in each),
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
        *_accelerator(said),
    ]
    if any_batch:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {WAIT} }}")
    # The first call of each size compiles or allocates.
    for images in sorted({1, max_batch_size}) if any_batch else [1]:
        lines += _warmup(said, images)
    # Labels have the names of the classes.
    known = {key: value for key, value in said.metadata().items() if key != f"{PREFIX}class_names"}
    lines += [f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(known[key])} }} }}" for key in known]
    return "\n".join(lines) + "\n"


def trtexec(path: str | os.PathLike[str], *, max_batch_size: int = 8) -> str:
    """The command that makes a TensorRT engine of a file, FILE.plan; no test of ours has run it.

    Parameters
    ----------
    path : path
        FILE.onnx, exported with ``runtime="tensorrt"``.
    max_batch_size : int
        Images in a call at most, of a file of any batch.

    Raises
    ------
    OSError, ImportError
        As :func:`write`.
    TypeError, ValueError
        If it is no exported file, or one for another runtime, or `max_batch_size` no number of images.
    """
    path = Path(path)
    _check_batch(max_batch_size)
    said = players.described(path)
    if said.runtime != "tensorrt":
        raise ValueError(
            f"path: {path} was exported for {said.runtime}, and may have operators that TensorRT lacks; export it with "
            "runtime='tensorrt' (--runtime tensorrt)"
        )
    # Distances between channels are compared: TensorFloat-32 would move them.
    parts = ["trtexec", f"--onnx={path}", f"--saveEngine={path.with_suffix('.plan')}", "--stronglyTyped", "--noTF32"]
    if said.batch is None:
        for option, images in (("min", 1), ("opt", max_batch_size), ("max", max_batch_size)):
            shapes = [("images", (images, *said.images))]
            if said.target == "input":
                shapes.append(("target", (images, *_per_image(said))))
            parts.append(f"--{option}Shapes=" + ",".join(f"{key}:{'x'.join(map(str, dims))}" for key, dims in shapes))
    return shlex.join(parts)


def _check_batch(max_batch_size: object) -> None:
    if isinstance(max_batch_size, bool) or not isinstance(max_batch_size, int):
        raise TypeError(f"max_batch_size: expected an int; got {type(max_batch_size).__name__}")
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size: expected at least 1; got {max_batch_size}")


def _inputs(said: Description) -> Iterator[list[str]]:
    yield _tensor("input", "images", "TYPE_FP32", said.images, said)
    if said.target == "input":
        yield _tensor("input", "target", "TYPE_INT64", _per_image(said), said)


def _outputs(said: Description) -> Iterator[list[str]]:
    each = _per_image(said)
    yield _tensor("output", "maps", "TYPE_FP32", (*each, *said.size), said)
    yield _tensor("output", "raw_maps", "TYPE_FP32", (*each, *said.layers[0].shape[1:]), said)
    labels = [f"label_filename: {_quoted(LABELS)}"] if _has_labels(said) else []
    yield _tensor("output", "logits", "TYPE_FP32", said.logits, said, labels)
    yield _tensor("output", "explained" if said.target == "input" else "target", "TYPE_INT64", each, said)
    yield _tensor("output", "empty", "TYPE_BOOL", each, said)
    yield _tensor("output", "converged", "TYPE_BOOL", each, said)


def _per_image(said: Description) -> tuple[int, ...]:
    """The axes of what there is once for each explained class of an image."""
    return () if said.classes is None else (said.classes,)


def _has_labels(said: Description) -> bool:
    return said.class_names is not None and len(said.logits) == 1


def _tensor(
    kind: str, name: str, data_type: str, of_image: Sequence[int], said: Description, more: Sequence[str] = ()
) -> list[str]:
    """An input or an output; without a batch's axis where Triton makes the batches."""
    dims = list(of_image) if said.batch is None else [said.batch, *of_image]
    return [
        f"{kind} [ {{",
        f"  name: {_quoted(name)}",
        f"  data_type: {data_type}",
        f"  dims: [ {', '.join(map(str, dims or [1]))} ]",
        # Triton knows no tensor without an axis.
        *([] if dims else ["  reshape { shape: [ ] }"]),
        *(f"  {line}" for line in more),
        "} ]",
    ]


def _accelerator(said: Description) -> list[str]:
    """Of a GPU: distances between channels are compared, which TensorFloat-32 would move."""
    if said.runtime == "tensorrt":
        return [
            "# Not tested on a GPU. NVIDIA_TF32_OVERRIDE=0 in Triton's environment keeps to float32.",
            'optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }',
        ]
    return [
        "optimization { execution_accelerators { gpu_execution_accelerator [ {",
        '  name: "cuda" parameters { key: "use_tf32" value: "0" }',
        "} ] } }",
    ]


def _warmup(said: Description, images: int) -> list[str]:
    """A call of so many images of noise before the first request."""
    batch = [] if said.batch is None else [said.batch]
    shape = ", ".join(map(str, [*batch, *said.images]))
    lines = [
        "model_warmup [ {",
        f'  name: "{images} of noise"',
        f"  batch_size: {images}",
        '  inputs { key: "images" value { data_type: TYPE_FP32 dims: [ ' + shape + " ] random_data: true } }",
    ]
    if said.target == "input":
        shape = ", ".join(map(str, [*batch, *_per_image(said)] or [1]))
        lines.append(
            '  inputs { key: "target" value { data_type: TYPE_INT64 dims: [ ' + shape + " ] zero_data: true } }"
        )
    return [*lines, "} ]"]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
