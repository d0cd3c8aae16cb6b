"""What plays an exported file: ONNX Runtime, or torch, which has AOTInductor's packages."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from .description import Description

#: What plays a file, by its suffix.
SUFFIXES = {".onnx": "onnxruntime", ".pt2": "aoti"}
#: Of an AOTInductor package: the entry that has its metadata.
AOTI_ENTRY = ".wrapper_metadata.json"
#: How what plays a file says that memory ran out, the host's or the device's.
_NO_MEMORY = ("bad allocation", "bad_alloc", "failed to allocate memory", "out of memory", "can't allocate memory")
NEEDS = "pip install 'cfcam-gpu[onnx]'"


class Player(Protocol):
    """A file that is loaded.

    Attributes
    ----------
    engine : str
        What plays it, with its version.
    device : torch.device
        Where it does.
    description : Description
        What the file says of itself.
    """

    engine: str
    device: torch.device
    description: Description

    def play(self, images: torch.Tensor, target: torch.Tensor | None) -> list[torch.Tensor]:
        """The file's outputs, in their order.

        Parameters
        ----------
        images : (B, C, H, W) float32 tensor
        target : (B,) or (B, T) int64 tensor, or None where the file takes none

        Raises
        ------
        MemoryError
            If memory runs out.
        RuntimeError
            If the runtime fails otherwise.
        """


def kind(path: Path) -> str:
    """What plays a file: ``"onnxruntime"`` or ``"aoti"``, by its suffix.

    Raises
    ------
    ValueError
        If that is neither .onnx nor .pt2.
    FileNotFoundError
        If there is no such file.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"path: expected a file .onnx or .pt2, as cfcam-gpu export writes them; got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"path: {path} is not a file")
    return SUFFIXES[path.suffix.lower()]


def open_file(path: Path, device: str, threads: int | None) -> Player:
    """A file, loaded by what plays it.

    Parameters
    ----------
    path : Path
    device : {"auto", "cpu", "cuda"}
    threads : int or None

    Raises
    ------
    OSError, ImportError, ValueError, RuntimeError
        If the file is missing or can't be read, or what plays it, or the device, is not there.
    """
    if kind(path) == "onnxruntime":
        return OnnxPlayer(path, device, threads)
    return AotiPlayer(path, device, threads)


class OnnxPlayer:
    """An ONNX file in ONNX Runtime; see :class:`Player`.

    Parameters
    ----------
    path : Path
    device : {"auto", "cpu", "cuda"}
    threads : int or None

    Raises
    ------
    ImportError, RuntimeError, ValueError
        As :func:`open_file`.
    """

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        runtime = _onnxruntime(path)
        self._path = path
        there = runtime.get_available_providers()
        providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
        if device == "cuda" and "CUDAExecutionProvider" not in there:
            raise RuntimeError(
                f"device: the installed onnxruntime has no CUDA provider ({', '.join(there)}); "
                "pip install onnxruntime-gpu in its place, or use the CPU"
            )
        if device == "cuda" or (device == "auto" and torch.cuda.is_available() and "CUDAExecutionProvider" in there):
            # TF32, its default, would move distances across DBSCAN's radius.
            providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        # Threads that wait by spinning take the cores from those that read images, and from torch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # what is wrong is raised
        try:
            self._session = runtime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # the runtime's own classes derive from Exception alone
            raise ValueError(f"path: onnxruntime can't load {path}: {_first_line(error)}") from error
        used = self._session.get_providers()[0]
        if device == "cuda" and used != "CUDAExecutionProvider":
            raise RuntimeError(
                "device: onnxruntime's CUDA provider can't be started here, for want of a GPU, its driver, or the CUDA "
                "and cuDNN that this onnxruntime was built for; use the CPU"
            )
        self.device = torch.device("cuda" if used == "CUDAExecutionProvider" else "cpu")
        self.engine = f"onnxruntime {runtime.__version__}"
        self.description = Description.read(self._session.get_modelmeta().custom_metadata_map, str(path))
        explained = "target" if self.description.target == "predicted" else "explained"
        self._names = ["maps", "raw_maps", "logits", explained, "empty", "converged"]
        lacking = set(self._names) - {output.name for output in self._session.get_outputs()}
        if lacking:
            raise ValueError(
                f"path: expected {path} to give {', '.join(self._names)}; it lacks {', '.join(sorted(lacking))}, as if "
                "something had changed it since its export"
            )

    def play(self, images: torch.Tensor, target: torch.Tensor | None) -> list[torch.Tensor]:
        """See :meth:`Player.play`.

        Raises
        ------
        MemoryError, RuntimeError
        """
        feed = {"images": images.numpy(force=True)}
        if target is not None:
            feed["target"] = target.numpy(force=True)
        try:
            outputs = self._session.run(self._names, feed)
        except Exception as error:  # as above
            raise _failed(self._path, error) from error
        return [torch.from_numpy(output) for output in outputs]


class AotiPlayer:
    """A package of AOTInductor's; see :class:`Player`.

    Parameters
    ----------
    path : Path
    device : {"auto", "cpu", "cuda"}
    threads : None

    Raises
    ------
    RuntimeError, ValueError
        As :func:`open_file`.
    """

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        if threads is not None:
            raise ValueError(
                f"threads: expected None, as {path.name} runs in torch's own (torch.set_num_threads); got {threads}"
            )
        self._path = path
        metadata = _aoti_metadata(path)
        self.description = Description.read(metadata, str(path))
        self.device = torch.device(metadata.get("AOTI_DEVICE_KEY", "cpu"))
        if device not in ("auto", self.device.type):
            raise RuntimeError(f"device: {path} was compiled for {self.device.type}; got {device}")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"device: {path} was compiled for CUDA, and torch sees no CUDA device")
        self.engine = f"aoti {torch.__version__}"
        try:
            self._package = torch._inductor.aoti_load_package(str(path))
        except Exception as error:  # a package of another machine fails in many ways
            raise ValueError(
                f"path: torch {torch.__version__} can't load {path} ({_first_line(error)}); a package runs on "
                f"machines like the one that compiled it: {metadata.get('AOTI_PLATFORM')} "
                f"{metadata.get('AOTI_MACHINE')}, {metadata.get('AOTI_CPU_ISA')}"
            ) from error

    def play(self, images: torch.Tensor, target: torch.Tensor | None) -> list[torch.Tensor]:
        """See :meth:`Player.play`.

        Raises
        ------
        MemoryError, RuntimeError
        """
        inputs = [images.to(self.device), *([] if target is None else [target.to(self.device)])]
        try:
            outputs = self._package(*inputs)
        except Exception as error:
            raise _failed(self._path, error) from error
        return list(outputs)


def described(path: Path) -> Description:
    """What a file says of itself; it is not played for that, nor is the code of a package run.

    Raises
    ------
    OSError, ImportError, ValueError
        If the file is missing or can't be read, or neither onnx nor onnxruntime is installed for one of ONNX.
    """
    if kind(path) == "aoti":
        return Description.read(_aoti_metadata(path), str(path))
    try:
        import onnx
    except ImportError:
        return OnnxPlayer(path, "cpu", None).description
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise ValueError(f"path: onnx can't read {path}: {_first_line(error)}") from error
    return Description.read({entry.key: entry.value for entry in model.metadata_props}, str(path))


def _aoti_metadata(path: Path) -> Mapping[str, str]:
    try:
        with zipfile.ZipFile(path) as package:
            (entry,) = (name for name in package.namelist() if name.endswith(AOTI_ENTRY))
            found: Any = json.loads(package.read(entry))
            return {str(key): str(value) for key, value in found.items()}
    except (zipfile.BadZipFile, ValueError, AttributeError) as error:
        raise ValueError(f"path: {path} is no package of AOTInductor's: {error}") from error


def _onnxruntime(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"path: onnxruntime plays {path}, and it can't be imported ({error}); {NEEDS}", name="onnxruntime"
        ) from error
    return onnxruntime


def _first_line(error: Exception) -> str:
    """What comes first in an error's text, which may have many lines."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _failed(path: Path, error: Exception) -> Exception:
    """What is raised where a call failed."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text.casefold() for sign in _NO_MEMORY):
        return MemoryError(f"{path}: {text}")
    return RuntimeError(f"{path}: {text}")
