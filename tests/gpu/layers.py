"""Layers to run the engines on, and what their results must be."""

import torch

from bench.parity import compare


def random(seed, batch, several, channels, *size):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(batch, channels, *size, generator=generator).relu()
    activations *= torch.rand(batch, channels, *[1] * len(size), generator=generator) > 0.3
    return activations.cuda(), torch.randn(batch, several, channels, *size, generator=generator).cuda()


def assert_equal(found, expected):
    for name, ours, theirs in zip(found._fields, found, expected):
        assert torch.equal(ours, theirs), name


def assert_right(engine, activations, gradients, config):
    """Labels, eps and maps are the CPU engine's, to the bounds of :mod:`bench.parity`."""
    report = compare(activations, gradients[:, 0], config, engine.run(activations, gradients, config))
    assert report["passed"], report
