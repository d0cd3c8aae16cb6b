"""Networks of volumes that are built in no time, and volumes in files of NIfTI and DICOM."""

import numpy as np
import torch
from torch import nn

from .scans import phantoms
from .scans.dicom.written import placed, written

SIZE = 32
#: That of `bright` where it gives a map as large as its input.
BRIGHT = "tests.volumes:bright"
SILENT = "tests.volumes:silent"


def silent(channels=1):
    """Sees evidence where a volume is bright; says nothing of itself."""
    network = nn.Sequential(
        nn.Conv3d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    with torch.no_grad():
        network[0].weight.fill_(1 / 27)
        network[0].bias.zero_()
        network[4].weight.copy_(torch.arange(1, 21).reshape(5, 4) / 20)
        network[4].bias.zero_()
    return network.eval()


def bright():
    """The same, which says how large its volumes are."""
    network = silent()
    network.pretrained_cfg = {"input_size": (1, SIZE, SIZE, SIZE)}
    return network


def two_channels():
    network = silent(2)
    network.pretrained_cfg = {"input_size": [2, 16, 20, 24], "axcodes": "RAS", "mean": [0.5], "std": [0.5, 0.25]}
    return network


def series(folder, *, series=1, **elements):
    """Axial slices of the phantom that lies to the left and back, as DICOM's own axes do; returns its affine."""
    values = phantoms.volume()
    dx, dy, dz = phantoms.SPACING
    for z in range(values.shape[2]):
        where = placed(z * dz, spacing=(dy, dx), origin=(-12.0, -15.0, -20.0))
        path = folder / f"Mustermann-{series}-{z * 7 % 97:02d}.dcm"
        pixels = (10 * values[:, :, z].T).astype(np.int16)
        written(path, pixels, number=z + 1, series=series, **where, **elements)
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = 12.0, 15.0, -20.0
    return affine
