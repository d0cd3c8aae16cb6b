"""The graph beside the library, eagerly and in ONNX Runtime."""

from dataclasses import replace

import numpy as np
import onnxruntime
import torch
from torch import nn

from cfcam_gpu.core.cluster_filter import DEAD, DOMINANT, MAX_MAP, NOISE
from cfcam_gpu.core.gate import gated
from cfcam_gpu.deploy.method_graph import MethodGraph
from cfcam_gpu.deploy.method_graph.channels import scale
from cfcam_gpu.deploy.method_graph.graph import clustered
from cfcam_gpu.deploy.onnx_file import OPSET, exported, quiet
from cfcam_gpu.engines import cpu


def expected(activations, gradients, config, coarse=None):
    """Raw maps (N, *spatial) and labels (N, C) of the library, of two (N, C, *spatial)."""
    found = cpu.run(activations, gradients[:, None], config)
    by = None if coarse is None else (coarse[0], coarse[1][:, None])
    maps = gated(found.raw_maps, activations, gradients[:, None], config, by)
    return maps[:, 0], found.labels[:, 0]


def labels(activations, gradients, config, *, unrolled=False):
    """(N, C) int64, as an engine's."""
    scaled = scale(activations.float().flatten(2))
    roles, groups, converged = clustered(scaled, gradients.float().flatten(2).mean(2), config, unrolled=unrolled)
    assert converged.all()
    found = torch.full(roles.alive.shape, DEAD)
    found[roles.dominant] = DOMINANT
    for n in range(len(found)):
        if groups is not None:
            here = roles.here[n]
            found[n, roles.chosen[n, here]] = numbered(groups.lowest[n, here], groups.lowest.shape[1])
    return found


def numbered(lowest, noise):
    """Labels from lowest core points (M,)."""
    numbers = {int(value): number for number, value in enumerate(lowest[lowest < noise].unique())}
    return torch.tensor([numbers.get(int(value), NOISE) for value in lowest], dtype=torch.int64)


def errors(found, wanted):
    """(N,): the largest difference of each map, over the largest of the map it should be."""
    largest = wanted.flatten(1).amax(1)
    off = (found - wanted).abs().flatten(1).amax(1)
    return off / torch.where(largest > 0, largest, 1.0)


def assert_the_librarys(activations, gradients, config, *, unrolled=(False, True), rounding=2e-7):
    """Maps and labels of one level, of two (N, C, *spatial).

    A map may be off by a millionth of its maximum; and, where much cancels, by `rounding` of what cancelled.
    """
    config = replace(config, gate=None)
    maps, wanted = expected(activations, gradients, config)
    sizes = gradients.abs().flatten(2).mean(2).reshape(*gradients.shape[:2], *(1 for _ in gradients.shape[2:]))
    summed = (sizes.double() * activations.abs()).sum(1).flatten(1).amax(1).clamp(max=MAX_MAP)
    bound = 1e-6 * maps.flatten(1).amax(1) + rounding * summed
    for form in unrolled:
        found, converged = MethodGraph(config, unrolled=form)(activations, gradients)
        assert found.dtype == torch.float32
        assert converged.tolist() == [True] * len(found)
        assert torch.equal(labels(activations, gradients, config, unrolled=form), wanted)
        off = (found - maps).abs().flatten(1).amax(1)
        assert (off <= bound).all(), off / bound
    return found


class Module(nn.Module):
    def __init__(self, config, *, unrolled):
        super().__init__()
        self.graph = MethodGraph(config, unrolled=unrolled)

    def forward(self, activations, gradients, coarse_activations=None, coarse_gradients=None):
        coarse = None if coarse_activations is None else (coarse_activations, coarse_gradients)
        return self.graph(activations, gradients, coarse)


def onnx(config, given, *, unrolled=False, any_batch=False):
    """The ``ModelProto`` of the graph alone, for activations and gradients, and those of the coarse layer."""
    program = exported(Module(config, unrolled=unrolled), given, any_batch=any_batch)
    with quiet():
        return torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False).model_proto


def play(model, *given):
    """Raw maps and what converged, in ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, given)})
    return torch.from_numpy(found[0]), torch.from_numpy(np.asarray(found[1]))


def relu(seed, *shape):
    """Activations as behind a ReLU, and gradients that speak for the target rather than against it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).relu(), torch.randn(shape, generator=generator) + 0.5
