"""A slide of scikit-image's stained tissue, explained: ``python examples/slides/tissue.py [FOLDER]``.

The network is made by hand and answers to the brown of DAB, which marks the antibody in this tissue (FHL2, in colon):
one that is trained on slides doesn't come by pip. FOLDER/tissue has the slide's results, FOLDER/slides.png a picture.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from skimage import data
from torch import nn

from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.results import overlay
from cfcam_gpu.slides import job

#: Micrometres from one pixel to the next; what scanners have at a magnification of 20.
MPP = 0.5


def brown() -> nn.Module:
    """Two classes, anything and brown. Its input is normalised as ImageNet's models want it."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    ).eval()
    # Red above blue by more and more; blue above red; and a constant.
    colors = torch.tensor([[1.0, 0.0, -1.0]] * 6 + [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        network[0].weight.copy_(colors[..., None, None].expand(-1, -1, 16, 16) / 256)
        network[0].bias.copy_(torch.tensor([0.0, -0.1, -0.2, -0.3, -0.4, -0.5, 0.0, 1.0]))
        network[4].weight.copy_(torch.tensor([[0.0] * 6 + [1.0, 3.0], [1.5] * 6 + [0.0, 0.0]]))
        network[4].bias.zero_()
    return network


def slide(path: Path) -> Path:
    """Write four pieces of the tissue, each another way round, on white ground: a pyramid of three levels."""
    tissue = data.immunohistochemistry()
    block = np.concatenate([tissue, tissue[:, ::-1]], axis=1)
    pixels = np.pad(np.concatenate([block, block[::-1]]), ((96, 96), (96, 96), (0, 0)), constant_values=255)
    with tifffile.TiffWriter(path) as file:
        for number, step in enumerate((1, 2, 4)):
            file.write(
                np.asarray(Image.fromarray(pixels).reduce(step)),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subifds=2 if number == 0 else None,
                subfiletype=int(number > 0),
                resolution=(1e4 / (MPP * step),) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def picture(slide: Path, folder: Path) -> Image.Image:
    """The slide, and its map over it, beside each other."""
    pixels = torch.from_numpy(tifffile.imread(slide)).movedim(-1, 0)[None]
    values = torch.from_numpy(np.nan_to_num(tifffile.imread(folder / "map-1.ome.tif")[0]))[None, None]
    # A pixel of the map, whose first channel is the evidence, is 8 x 8 of the slide's.
    whole = nn.functional.interpolate(values, scale_factor=8, mode="bilinear")[
        ..., : pixels.shape[2], : pixels.shape[3]
    ]
    over = overlay(whole[0] / whole.max(), pixels)[0].numpy()
    pair = np.concatenate([pixels[0].movedim(0, -1).numpy(), np.full((len(over), 32, 3), 255, np.uint8), over], axis=1)
    return Image.fromarray(pair).reduce(3)


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/slides")
    out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent))
    source = slide(out / "tissue.tif")
    ready = job.check(
        job.Job(slides=[source], out=out, settings=Settings(model="tissue:brown"), classes=["1"], mpp=MPP, restart=True)
    )
    (outcome,) = ready.execute(lambda number, done, total: print(f"{done} of {total} tiles", end="\r"))
    assert outcome.error is None, outcome.error
    picture(source, outcome.folder).save(out / "slides.png")
    print(f"{outcome.folder / 'page.html'} and {out / 'slides.png'}")
