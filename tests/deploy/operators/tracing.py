"""Traces of single operators, as `cfcam_gpu.deploy.tracing` makes them of networks."""

import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from cfcam_gpu.deploy import operators


def expected(module, x, cotangent):
    """What autograd gives: output and gradient."""
    x = x.clone().requires_grad_()
    output = module(x + 0)
    (gradient,) = torch.autograd.grad(output, x, cotangent)
    return output.detach(), gradient


def drawn(module, shape, batch, dtype=torch.float32):
    """Images and a cotangent for their outputs."""
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, *shape, generator=generator).to(dtype)
    with torch.no_grad():
        shape_of_output = module(x + 0).shape
    return x, torch.randn(shape_of_output, generator=generator).to(dtype)


class Traced(nn.Module):
    """Images and cotangents to outputs and gradients, for any number of images."""

    def __init__(self, module, x, cotangent, *, tensorrt=False, simplified=True):
        super().__init__()
        weights = dict(module.named_parameters()) | dict(module.named_buffers())
        for i, weight in enumerate(weights.values()):
            self.register_buffer(f"weight_{i}", weight.detach())
        self.count = len(weights)

        def both(values, x, cotangent):
            def forward(zeros):
                with operators.PlainForward():
                    return functional_call(module, dict(zip(weights, values)), (x + zeros,))

            output, backward = vjp(functionalize(forward), torch.zeros_like(x))
            return output, backward(cotangent)[0]

        mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)
        sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (x.ndim - 1)]
        images = mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
        with mode:
            ways = cotangent.new_empty(images.shape[0], *cotangent.shape[1:], device="cpu")
        inputs = [mode.from_tensor(weight.detach(), static_shapes=True) for weight in weights.values()], images, ways
        table = operators.decompositions(tensorrt=tensorrt)
        how = {"tracing_mode": "real", "_allow_non_fake_inputs": True}
        with mode, enable_python_dispatcher(), sdpa_kernel(SDPBackend.MATH):
            graph = make_fx(both, table, **how)(*inputs)
            if not operators.is_functional(graph):
                graph = make_fx(functionalize(graph, remove="mutations"), table, **how)(*inputs)
        if simplified:
            operators.simplify(graph)
        self.graph = graph

    def forward(self, x, cotangent):
        return tuple(self.graph([getattr(self, f"weight_{i}") for i in range(self.count)], x, cotangent))
