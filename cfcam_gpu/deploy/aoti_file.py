"""An explanation's graph as a package of AOTInductor."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import fx, nn

from .onnx_file import exported, quiet
from .players import AOTI_ENTRY

_aten = torch.ops.aten


@dataclass(frozen=True)
class Package:
    """The bytes of a package, and the SHA-256 of the graph that it was compiled from."""

    data: bytes
    sha256: str
    opset: None = None

    @classmethod
    def of(cls, graph: nn.Module, inputs: Sequence[torch.Tensor], *, any_batch: bool) -> Package:
        """That of a module; see :meth:`cfcam_gpu.deploy.onnx_file.OnnxFile.of`.

        Raises
        ------
        RuntimeError
            If torch can't export or compile it: a C++ compiler is needed.
        """
        program = exported(graph, inputs, any_batch=any_batch)
        digest = hashlib.sha256(str(program.graph).encode()).hexdigest()
        _take_biases_apart(program.graph_module)
        with TemporaryDirectory() as folder, quiet():
            path = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "explain.pt2"))
            return cls(Path(path).read_bytes(), digest)

    def with_metadata(self, metadata: Mapping[str, str]) -> bytes:
        """The same package with metadata beside its own."""
        found = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(self.data)) as old, zipfile.ZipFile(found, "w") as new:
            for entry in old.infolist():
                data = old.read(entry)
                if entry.filename.endswith(AOTI_ENTRY):
                    data = json.dumps(json.loads(data) | dict(metadata)).encode()
                new.writestr(entry, data)
        return found.getvalue()


def _take_biases_apart(graph: fx.GraphModule) -> None:
    """Add the bias of each convolution of single positions behind it, where Inductor does it along with what follows.

    Given one, torch's own kernel for these copies it to every position of the output before it starts.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_aten.convolution.default):
        _, weight, bias, *_ = node.args
        size = weight.meta["val"].shape[2:]
        if bias is None or any(n != 1 for n in size):
            continue
        node.update_arg(2, None)
        with graph.graph.inserting_after(node):
            shaped = graph.graph.call_function(_aten.reshape.default, (bias, [1, -1, *size]))
        with graph.graph.inserting_after(shaped):
            total = graph.graph.call_function(_aten.add.Tensor, (node, shaped))
        node.replace_all_uses_with(total, delete_user_cb=lambda user, total=total: user is not total)
        shaped.meta["val"] = bias.meta["val"].reshape(1, -1, *size)
        total.meta = dict(node.meta)
    graph.recompile()
