"""Jobs of slides that take no time: a phantom of one green disc, and a network that answers to green."""

import numpy as np
import torch
from torch import nn

from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.slides import job

from .files import levels, pyramid

#: The slide's width and height, and the disc's middle and radius, in pixels of level 0.
SIDES, DISC = (896, 560), (620, 210, 60)
TISSUE, GREEN = (190, 150, 200), (40, 200, 60)
#: What is a tenth as green, on spots all over the slide: what a tile without the disc has its own maximum at.
FAINT = (170, 190, 180)


def phantom(path, *, width=SIDES[0], height=SIDES[1], disc=DISC, **options):
    """Write a slide of even tissue with a green disc, and spots of a faint green; without a disc even tissue alone."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = TISSUE
    if disc is not None:
        y, x = np.mgrid[:height, :width]
        pixels[np.hypot(x % 200 - 100, y % 200 - 100) < 20] = FAINT
        pixels[np.hypot(x - disc[0], y - disc[1]) < disc[2]] = GREEN
    return pyramid(path, levels(pixels), **options)


def six_tiles(path, **options):
    """Write a slide of the phantom's kind that has six tiles."""
    return phantom(path, width=448, height=336, disc=(200, 200, 60), **options)


def green():
    """Two classes, anything and green: the second's logit grows with the share of a tile that is green."""
    network = nn.Sequential(
        nn.Conv2d(3, 7, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 2)
    ).eval()
    # Of normalised colours: green above red and blue by more and more, and anything.
    colors = torch.tensor([[-1.0, 2.0, -1.0]] * 6 + [[0.0, 0.0, 0.0]])
    with torch.no_grad():
        network[0].weight.copy_(colors[..., None, None].expand(-1, -1, 16, 16) / 256)
        network[0].bias.copy_(torch.tensor([0.0, -0.05, -0.1, -0.15, -0.2, -0.25, 1.0]))
        network[4].weight.copy_(torch.tensor([[0.0] * 6 + [4.0], [1.5] * 6 + [0.0]]))
        network[4].bias.zero_()
    return network


def spoilt():
    """The same, and not a number where a tile's upper left corner is green."""

    class Spoilt(nn.Module):
        def forward(self, x):
            corner = x[:, :, :4, :4].mean(dim=(2, 3))
            return torch.where((corner[:, 1] > corner[:, 0] + 1)[:, None, None, None], torch.nan, x)

    return nn.Sequential(Spoilt(), *green())


def asked(slides, out, **options):
    """A job, sound or not."""
    given = {"model": "tests.slides.jobs:green", "layers": (), "engine": "auto"}
    settings = Settings(device="cpu", **{name: options.pop(name, value) for name, value in given.items()})
    return job.Job(slides=slides, out=out, settings=settings, **{"classes": ["1"], "batch_size": 8, **options})


def explain(slides, out, *, progress=lambda *told: None, **options):
    """What has become of slides."""
    return list(job.check(asked(slides, out, **options)).execute(progress))
