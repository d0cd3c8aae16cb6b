"""An explanation's graph as an ONNX file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .explanation_graph import OUTPUTS, OUTPUTS_BESIDE_TARGET

#: The release of ONNX's operators that files are written for.
OPSET = 20
#: What one file, a message of protobuf, can hold.
MOST_BYTES = 2**31 - 2**20


@dataclass(frozen=True)
class OnnxFile:
    """An ``onnx.ModelProto`` and the SHA-256 of its graph, with its weights."""

    model: Any
    sha256: str
    opset: int = OPSET

    @classmethod
    def of(cls, graph: nn.Module, inputs: Sequence[torch.Tensor], *, any_batch: bool) -> OnnxFile:
        """That of a module, checked by ``onnx.checker``.

        Parameters
        ----------
        graph : torch.nn.Module
            An :class:`~cfcam_gpu.deploy.explanation_graph.ExplanationGraph`, say.
        inputs : sequence of tensors
            Images, and classes where they are an input.
        any_batch : bool
            Whether the length of their first axis is left open.

        Raises
        ------
        RuntimeError
            If torch can't export it, or the checker finds fault with what it wrote; the message has the reason.
        """
        import onnx

        program = exported(graph, inputs, any_batch=any_batch)
        try:
            with quiet():
                converted = torch.onnx.export(
                    program,
                    dynamo=True,
                    input_names=["images", "target"][: len(inputs)],
                    output_names=list(OUTPUTS_BESIDE_TARGET if len(inputs) > 1 else OUTPUTS),
                    opset_version=OPSET,
                    verbose=False,
                )
            assert converted is not None
            _tidy(converted.model)
            model = converted.model_proto
            _name_batch(model)
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # of any class: it passes through torch's exporter and onnxscript
            raise RuntimeError(f"export: torch can't write this explanation as ONNX: {_reason(error)}") from error
        return cls(model, graph_sha256(model))

    def with_metadata(self, metadata: Mapping[str, str]) -> bytes:
        """The bytes of a file: the model with metadata."""
        del self.model.metadata_props[:]
        for key, value in metadata.items():
            entry = self.model.metadata_props.add()
            entry.key, entry.value = key, value
        found: bytes = self.model.SerializeToString()
        return found


def exported(graph: nn.Module, inputs: Sequence[torch.Tensor], *, any_batch: bool) -> torch.export.ExportedProgram:
    """The program that ``torch.export`` makes of a module.

    Raises
    ------
    RuntimeError
        If it can't; the message has torch's reason.
    """
    batch = torch.export.Dim("batch", min=1, max=65_535)
    shapes = tuple({0: batch} for _ in inputs) if any_batch else None
    try:
        with torch.no_grad():
            return torch.export.export(graph, tuple(inputs), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of any class: it passes through the compiler
        way = "; a fixed batch (batch=N, --batch N) asks less of it" if any_batch else ""
        raise RuntimeError(f"export: torch can't export this explanation: {_reason(error)}{way}") from error


def _reason(error: BaseException) -> str:
    """The first line of what was wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _tidy(model: Any) -> None:
    """Keep one of equal constants and of equal operators, and none of the notes, which name files of this machine."""
    from onnx_ir.passes import common

    for rule in (
        common.ClearMetadataAndDocStringPass(),
        common.IdentityEliminationPass(),
        common.DeduplicateInitializersPass(size_limit=MOST_BYTES),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        rule(model)


def _name_batch(model: Any) -> None:
    """Call the open axis of inputs and outputs one name."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"


def graph_sha256(model: Any) -> str:
    """Of the graph of an ``onnx.ModelProto``, with its weights."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, what libraries deprecate among themselves is not warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
